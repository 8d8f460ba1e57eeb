"""What a run does before its first step."""

from regard.training.prepare import cut_captions


def test_captions_that_are_cut_are_counted() -> None:
    captions = [[[4, 5, 6, 7], [4, 5]], [[4, 5, 6]]]
    cut, remark = cut_captions(captions, 3)
    assert cut == [[[4, 5, 6], [4, 5]], [[4, 5, 6]]]
    assert remark.startswith("1 of 3 training captions have more than data.max_length = 3 tokens")
    assert "the longest has 4" in remark
    assert cut_captions(captions, 4) == (captions, "")
