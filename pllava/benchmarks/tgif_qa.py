"""TGIF-QA, open-ended frame questions on animated GIFs. Layout: `TGIF*/test_q.json`, `test_a.json`, and the GIFs in any folder beside
them."""

from pllava.benchmarks.open_questions import OpenQuestions

BENCHMARK = OpenQuestions("tgif_qa", "TGIF-QA", folder="tgif", first_suffix=".gif")
