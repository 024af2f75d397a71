"""Labels, batches and padding."""

import torch
from unit.zoo.sample_data import classifier

from lockstep_export.ragged import by_length, padded, real, shuffled
from lockstep_zoo.classify.batches import ClassifierCorpus, EncodedSentences, inputs_for
from lockstep_zoo.classify.training import SentimentTraining, loss_of, predicted

ROWS = EncodedSentences([[2, 4 + index % 5] * (1 + index % 3) for index in range(80)], [0, 1] * 40)


def test_one_logit_and_two_logits_agree() -> None:
    logit, labels = torch.tensor([[1.5], [-0.5]]), torch.tensor([1, 0])
    both = torch.cat((torch.zeros(2, 1), logit), dim=1)
    assert torch.allclose(loss_of(logit, labels), loss_of(both, labels))
    assert predicted(logit).tolist() == predicted(both).tolist() == [1, 0]


def test_batches_cover_every_sentence_once() -> None:
    rng = torch.Generator().manual_seed(0)
    for batches in (by_length(80, 7, ROWS.length), shuffled(80, 7, ROWS.length, rng)):
        assert sorted(index for batch in batches for index in batch) == list(range(80))


def test_an_epoch_has_count_batches() -> None:
    training_task = SentimentTraining(classifier("sentiment-bow"), ClassifierCorpus(ROWS, ROWS, ROWS))
    assert len(list(training_task.batches(torch.Generator()))) == training_task.count() == 3


def test_inputs_are_padded_and_have_lengths_or_a_mask() -> None:
    lengths = inputs_for(classifier("sentiment-lstm"), [[5], [6, 7]], extra=1)
    assert lengths["tokens"].tolist() == [[5, 0, 0], [6, 7, 0]]
    assert lengths["lengths"].tolist() == [1, 2]
    mask = inputs_for(classifier("sentiment-transformer"), [[5], [6, 7]])
    assert mask["mask"].tolist() == [[True, False], [True, True]]
    assert list(inputs_for(classifier("sentiment-bow"), [[5]])) == ["tokens"]


def test_a_mask_is_true_for_real_elements() -> None:
    ids, lengths = padded([[1], [2, 3, 4]], extra=1)
    assert ids.tolist() == [[1, 0, 0, 0], [2, 3, 4, 0]]
    assert real(lengths, 4).tolist() == [[True, False, False, False], [True, True, True, False]]
