from collections import Counter

from bench.routing import Answer, as_markdown, questions


def test_the_questions_are_the_same_each_time_and_share_nothing_but_their_documents() -> None:
    asked = questions(4, 30, 40, seed=3)
    assert asked == questions(4, 30, 40, seed=3) != questions(4, 30, 40, seed=4)
    assert len({question.prompt for question in asked}) == 40
    beginnings = Counter((question.document, question.prompt.partition("\n")[0]) for question in asked)
    assert len(beginnings) == 4 and all(len(text.split()) == 31 for _, text in beginnings)


def test_the_table_counts_tokens_and_requests() -> None:
    answers = [Answer("m/0", 300, 0), Answer("m/1", 300, 150), Answer("m/0", 400, 350)]
    assert as_markdown({"prefix": answers}).splitlines()[-1] == "| prefix | 1000 | 500 | 50.0% | 2 1 |"
