"""MSRVTT-QA: web video of 10 to 30 s, 72,821 test questions. Layout: `MSRVTT*/test_q.json`, `test_a.json`, and the videos (.mp4) in any
folder beside them."""

from pllava.benchmarks.open_questions import OpenQuestions

BENCHMARK = OpenQuestions("msrvtt_qa", "MSRVTT-QA", folder="msrvtt")
