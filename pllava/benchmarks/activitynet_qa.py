"""ActivityNet-QA: untrimmed video of up to some minutes, 8,000 test questions on 800 clips. Layout: `ActivityNet*/test_q.json`,
`test_a.json`, and the videos beside them; a file's name is `v_` and the annotation's video_name."""

from pllava.benchmarks.open_questions import OpenQuestions

BENCHMARK = OpenQuestions("activitynet_qa", "ActivityNet-QA", folder="activitynet", video_prefix="v_")
