"""MSVD-QA: short clips of web video, 13,157 test questions. Layout: `MSVD*/test_q.json`, `test_a.json`, and the videos (.avi) in any
folder beside them."""

from pllava.benchmarks.open_questions import OpenQuestions

BENCHMARK = OpenQuestions("msvd_qa", "MSVD-QA", folder="msvd", first_suffix=".avi")
