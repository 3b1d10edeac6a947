"""Chat about videos over HTTP, in the form of OpenAI's API: `pllava serve`. See docs/serving.md."""
