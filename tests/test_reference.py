"""The oracle itself, against numbers worked by hand: every docstring derives what its test asserts."""

import math
from types import SimpleNamespace

import pytest
import torch

import reference

NOT = reference.IGNORED


def rows(*values):
    return torch.tensor(values, dtype=torch.float64)


def labels_of(*values):
    return torch.tensor(values)


def loss_and_gradient(losses, labels, **options):
    losses = losses.clone().requires_grad_()
    loss = reference.loss_from_token_losses(losses, labels, **options)
    (gradient,) = torch.autograd.grad(loss, losses)
    return loss.item(), gradient


# -------------------------------------------------------------------------------------------------- positions


def test_the_first_token_of_a_row_is_never_trained():
    """Nothing predicts it, labelled or not: of three labelled tokens two are trained."""
    trained, documents = reference.trained_positions(labels_of([5, 6, 7], [NOT, 6, NOT]))
    assert trained.tolist() == [[False, True, True], [False, True, False]]
    assert documents.tolist() == [[0, 0, 0], [0, 0, 0]]


def test_padding_belongs_to_no_document_and_the_first_attended_token_begins_the_row():
    """Row 0: two pads on the left, so the token at 2 is the first. Row 1: one pad on the right."""
    trained, documents = reference.trained_positions(
        labels_of([NOT, NOT, 5, 6], [4, 5, 6, NOT]), attention_mask=labels_of([0, 0, 1, 1], [1, 1, 1, 0])
    )
    assert trained.tolist() == [[False, False, False, True], [False, True, True, False]]
    assert documents.tolist() == [[-1, -1, 0, 0], [0, 0, 0, -1]]


def test_position_zero_begins_a_packed_document():
    """Two documents of 3 and 2 tokens, all labelled: positions 0 and 3 are their first tokens."""
    trained, documents = reference.trained_positions(
        labels_of([1, 2, 3, 4, 5]), position_ids=labels_of([0, 1, 2, 0, 1])
    )
    assert trained.tolist() == [[False, True, True, False, True]]
    assert documents.tolist() == [[0, 0, 0, 1, 1]]


def test_left_padding_with_position_ids_from_the_mask_makes_one_document():
    """A tokenizer's ids for left padding are often 0 0 0 1 or 1 1 0 1: the pads must not count as documents."""
    for ids in ([0, 0, 0, 1], [1, 1, 0, 1]):
        _, documents = reference.trained_positions(
            labels_of([NOT, NOT, 5, 6]), labels_of([0, 0, 1, 1]), labels_of(ids)
        )
        assert documents.tolist() == [[-1, -1, 0, 0]]


# --------------------------------------------------------------------------------------- relation propagation

ONE_ROW = labels_of([NOT, 5, 6, 7])
ONE_TWO_FOUR = rows([math.nan, 1.0, 2.0, 4.0])  # what stands at an untrained position must not be read


def weights_of(losses, labels, kind, gamma, detach="none", **positions):
    trained, documents = reference.trained_positions(labels, **positions)
    return reference.propagation_weights(losses, trained, documents, kind, gamma, detach)


def test_bellman_by_hand():
    """Losses 1, 2, 4, gamma 1/2. S = 1 + 2/2 + 4/4, 2 + 4/2, 4 = 3, 4, 4, whose mean is 11/3.

    w = 9/11, 12/11, 12/11.

    L = (9/11 * 1 + 12/11 * 2 + 12/11 * 4) / 3 = 81/33 = 27/11.
    """
    assert weights_of(ONE_TWO_FOUR, ONE_ROW, "bellman", 0.5)[0].tolist() == pytest.approx(
        [0, 9 / 11, 12 / 11, 12 / 11]
    )
    loss = reference.loss_from_token_losses(ONE_TWO_FOUR, ONE_ROW, kind="bellman", gamma=0.5)
    assert loss.item() == pytest.approx(27 / 11, abs=1e-12)


def test_cumsum_by_hand():
    """Losses 1, 2, 4, gamma 1/2. c = 1, 1 + 1/2, 1 + 1/2 + 1/4; their mean 17/12; w = 12/17, 18/17, 21/17.

    L = (12 + 2 * 18 + 4 * 21) / (3 * 17) = 132/51.
    With gamma 1: c = 1, 2, 3; w = 1/2, 1, 3/2; L = (1/2 + 2 + 6) / 3 = 17/6.
    """
    assert weights_of(ONE_TWO_FOUR, ONE_ROW, "cumsum", 0.5)[0].tolist() == pytest.approx(
        [0, 12 / 17, 18 / 17, 21 / 17]
    )
    loss = reference.loss_from_token_losses(ONE_TWO_FOUR, ONE_ROW, kind="cumsum", gamma=0.5)
    assert loss.item() == pytest.approx(132 / 51, abs=1e-12)
    loss = reference.loss_from_token_losses(ONE_TWO_FOUR, ONE_ROW, kind="cumsum", gamma=1.0)
    assert loss.item() == pytest.approx(17 / 6, abs=1e-12)


def test_cumsum_is_equation_21_up_to_the_scale():
    """Read literally, gamma 1/2: (1 + 2/2 + 4/4) + (2 + 4/2) + 4 = 11. The weights add up to 17/4; 11 / (17/4)."""
    literal = sum(0.5 ** (i - n) * (1.0, 2.0, 4.0)[i] for n in range(3) for i in range(n, 3))
    assert literal == 11
    loss = reference.loss_from_token_losses(ONE_TWO_FOUR, ONE_ROW, kind="cumsum", gamma=0.5)
    assert loss.item() == pytest.approx(11 / (17 / 4), abs=1e-12)


def test_none_is_the_plain_mean():
    """(1 + 2 + 4) / 3."""
    assert weights_of(ONE_TWO_FOUR, ONE_ROW, "none", 0.5)[0].tolist() == [0, 1, 1, 1]
    loss = reference.loss_from_token_losses(ONE_TWO_FOUR, ONE_ROW, kind="none")
    assert loss.item() == pytest.approx(7 / 3, abs=1e-12)


def test_a_hole_contributes_nothing_and_counts_as_distance():
    """Trained at 1 and 3 with losses 1 and 4, gamma 1/2, and a 100 in the hole between them.

    bellman: S = 1 + 4/4, 4 = 2, 4; w = 2/3, 4/3; L = (2/3 + 16/3) / 2 = 3.
    cumsum: c = 1, 1 + 1/4; w = 8/9, 10/9; L = (8/9 + 40/9) / 2 = 8/3.
    """
    losses, labels = rows([0.0, 1.0, 100.0, 4.0]), labels_of([NOT, 5, NOT, 7])
    assert weights_of(losses, labels, "bellman", 0.5)[0].tolist() == pytest.approx([0, 2 / 3, 0, 4 / 3])
    assert weights_of(losses, labels, "cumsum", 0.5)[0].tolist() == pytest.approx([0, 8 / 9, 0, 10 / 9])
    loss = reference.loss_from_token_losses(losses, labels, gamma=0.5)
    assert loss.item() == pytest.approx(3, abs=1e-12)
    loss = reference.loss_from_token_losses(losses, labels, kind="cumsum", gamma=0.5)
    assert loss.item() == pytest.approx(8 / 3, abs=1e-12)


def test_a_row_that_costs_nothing_weighs_one():
    """All losses 0: the sums are 0, the weights 1, the loss 0, the gradient 1/2 each (the plain mean), not NaN."""
    losses, labels = rows([0.0, 0.0, 0.0]), labels_of([NOT, 5, 6])
    assert weights_of(losses, labels, "bellman", 0.5)[0].tolist() == [0, 1, 1]
    loss, gradient = loss_and_gradient(losses, labels, gamma=0.5)
    assert loss == 0
    assert gradient.tolist() == [[0, 0.5, 0.5]]


def test_one_trained_token_weighs_one_and_keeps_its_gradient():
    """w = l / l = 1 and L = l: the gradient is 1, also with w detached; with its scale detached 2 l / l = 2."""
    losses, labels = rows([0.0, 3.0]), labels_of([NOT, 5])
    for detach, slope in (("none", 1.0), ("scale", 2.0), ("weights", 1.0)):
        loss, gradient = loss_and_gradient(losses, labels, detach=detach)
        assert loss == pytest.approx(3)
        assert gradient[0].tolist() == pytest.approx([0, slope])


PACKED = labels_of([NOT, 5, 6, 9, 5, 6, 7])
PACKED_IDS = labels_of([0, 1, 2, 0, 1, 2, 3])
PACKED_LOSSES = rows([0.0, 2.0, 4.0, 50.0, 1.0, 2.0, 4.0])


def test_packed_documents_are_rows_of_their_own():
    """Losses 2, 4 and 1, 2, 4, gamma 1/2; position 3 has a label but begins its document.

    First: S = 2 + 4/2, 4; w = 1, 1; L = 3. Second: L = 27/11 as alone.
    sequence: (3 + 27/11) / 2 = 30/11. token: (2 * 3 + 3 * 27/11) / 5 = 147/55.
    """
    weights = weights_of(PACKED_LOSSES, PACKED, "bellman", 0.5, position_ids=PACKED_IDS)
    assert weights[0].tolist() == pytest.approx([0, 1, 1, 0, 9 / 11, 12 / 11, 12 / 11])
    for reduction, expected in (("sequence", 30 / 11), ("token", 147 / 55)):
        loss = reference.loss_from_token_losses(
            PACKED_LOSSES, PACKED, position_ids=PACKED_IDS, gamma=0.5, reduction=reduction
        )
        assert loss.item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("kind", ["bellman", "cumsum", "none"])
@pytest.mark.parametrize("reduction", ["sequence", "token"])
def test_packed_equals_padded(kind, reduction):
    """The packed documents laid into two rows, one of them left-padded: the same numbers, so the same loss."""
    packed = reference.loss_from_token_losses(
        PACKED_LOSSES, PACKED, position_ids=PACKED_IDS, kind=kind, gamma=0.7, reduction=reduction
    )
    padded = reference.loss_from_token_losses(
        rows([8.0, 0.0, 2.0, 4.0], [0.0, 1.0, 2.0, 4.0]),
        labels_of([NOT, NOT, 5, 6], [NOT, 5, 6, 7]),
        attention_mask=labels_of([0, 1, 1, 1], [1, 1, 1, 1]),
        kind=kind,
        gamma=0.7,
        reduction=reduction,
    )
    assert packed.item() == pytest.approx(padded.item(), abs=1e-12)


# --------------------------------------------------------------------------------------------------- gradient


def test_a_confident_last_token_is_pushed_up():
    """Losses 4, 0, gamma 1/2: S = 4, 0, L = (4 * 4 + 0) / 4 = 4.

    detach none: dL/dl = (S_1 + (4 - L), S_2 + (4 - L)/2 + (0 - L)) / 4 = (1, -1): the last token's
    loss is pushed *up*.
    detach scale: (S_1 + 4, S_2 + 4/2 + 0) / 4 = (2, 1/2). detach weights: w / 2 = (1, 0).
    """
    losses, labels = rows([0.0, 4.0, 0.0]), labels_of([NOT, 5, 6])
    for detach, expected in (("none", [0, 1, -1]), ("scale", [0, 2, 0.5]), ("weights", [0, 1, 0])):
        loss, gradient = loss_and_gradient(losses, labels, gamma=0.5, detach=detach)
        assert loss == pytest.approx(4)
        assert gradient[0].tolist() == pytest.approx(expected)


@pytest.mark.parametrize("gamma", [0.5, 0.95, 1.0])
def test_the_gradient_is_the_documented_formula(gamma):
    """L = (sum S_t l_t) / (sum S_t). With dS_t/dl_j = gamma^(j-t) for t <= j, the quotient rule gives

    dL/dl_j = (S_j + sum_{t<=j} gamma^(j-t) (l_t - L)) / sum S with the scale in the graph, and without
    the "- L" with the scale detached; with w detached, S_j / sum S. Over 12 positions with holes; t runs over
    trained positions.
    """
    generator = torch.Generator().manual_seed(0)
    losses = torch.rand(1, 12, generator=generator, dtype=torch.float64) ** 3 * 4
    learned = [2, 3, 5, 6, 7, 10, 11]
    labels = labels_of([1 if t in learned else NOT for t in range(12)])
    cost = losses[0].tolist()
    sums = {t: sum(gamma ** (i - t) * cost[i] for i in learned if i >= t) for t in learned}
    total = sum(sums.values())
    row_loss = sum(sums[t] * cost[t] for t in learned) / total
    for detach, shift in (("none", row_loss), ("scale", 0.0)):
        loss, gradient = loss_and_gradient(losses, labels, gamma=gamma, detach=detach)
        assert loss == pytest.approx(row_loss, abs=1e-12)
        for j in range(12):
            slope = 0.0
            if j in learned:
                slope = sums[j] + sum(gamma ** (j - t) * (cost[t] - shift) for t in learned if t <= j)
            assert gradient[0, j].item() == pytest.approx(slope / total, abs=1e-12)
            assert detach == "none" or slope >= 0
    _, gradient = loss_and_gradient(losses, labels, gamma=gamma, detach="weights")
    assert [gradient[0, j].item() * total for j in learned] == pytest.approx([sums[j] for j in learned])


def test_the_row_loss_is_of_degree_one_and_its_gradient_with_the_scale_detached_of_two():
    """Doubling every l doubles L = (sum S l) / (sum S), so sum_j l_j dL/dl_j = L (Euler), whatever the signs.

    With the denominator held, sum S l is of degree 2: sum_j l_j dL/dl_j = 2 L.
    """
    losses = ONE_TWO_FOUR.nan_to_num()
    for detach, degree in (("none", 1), ("scale", 2), ("weights", 1)):
        loss, gradient = loss_and_gradient(losses, ONE_ROW, gamma=0.5, detach=detach)
        assert (gradient * losses).sum().item() == pytest.approx(degree * loss)
        doubled, _ = loss_and_gradient(2 * losses, ONE_ROW, gamma=0.5, detach=detach)
        assert doubled == pytest.approx(2 * loss)


# -------------------------------------------------------------------------------------------------- reduction


def test_sequence_means_over_rows_with_something_to_learn():
    """Rows of mean 1 and 5 and one without a label: (1 + 5) / 2 by rows; (1 + 5 + 5 + 5) / 4 by tokens."""
    losses = rows([0.0, 1.0, 9.0, 9.0], [0.0, 5.0, 5.0, 5.0], [9.0, 9.0, 9.0, 9.0])
    labels = labels_of([NOT, 5, NOT, NOT], [NOT, 5, 6, 7], [NOT] * 4)
    by_row = reference.loss_from_token_losses(losses, labels, kind="none", reduction="sequence")
    by_token = reference.loss_from_token_losses(losses, labels, kind="none", reduction="token")
    assert by_row.item() == pytest.approx(3)
    assert by_token.item() == pytest.approx(4)


def test_the_parts_of_a_global_batch_add_up():
    """Each row alone over the global divisor: 1/2 + 5/2 = 3 (2 rows), 1/4 + 15/4 = 4 (4 tokens)."""
    first = rows([0.0, 1.0]), labels_of([NOT, 5])
    second = rows([0.0, 5.0, 5.0, 5.0]), labels_of([NOT, 5, 6, 7])
    for reduction, count, expected in (("sequence", 2, (0.5, 2.5)), ("token", 4, (0.25, 3.75))):
        parts = [
            reference.loss_from_token_losses(*part, kind="none", reduction=reduction, count=count).item()
            for part in (first, second)
        ]
        assert parts == pytest.approx(expected)


def test_a_batch_without_labels_costs_nothing():
    """0 / max(0, 1) = 0, not NaN."""
    assert reference.loss_from_token_losses(rows([1.0, 2.0]), labels_of([NOT, NOT])).item() == 0


# ----------------------------------------------------------------------------------------------------- lambda


def test_lambda_climbs_over_the_warm_up():
    """Ratio 0.35 of 10 steps: ceil(3.5) = 4 steps from 0.1 to 0.5: 0.1, 0.2, 0.3, 0.4, then 0.5."""
    values = [reference.scheduled_lambda(step, 10, 0.5, 0.1, 0.35) for step in range(6)]
    assert values == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.5])


def test_lambda_may_fall_and_starts_at_zero_when_not_told():
    """From 0.6 down to 0.2 over 2 of 4 steps: 0.6, 0.4, 0.2. Without a start: 0, 0.1, 0.2. Or 0.2 at once."""
    falling = [reference.scheduled_lambda(step, 4, 0.2, 0.6, 0.5) for step in range(4)]
    assert falling == pytest.approx([0.6, 0.4, 0.2, 0.2])
    rising = [reference.scheduled_lambda(step, 4, 0.2, None, 0.5) for step in range(3)]
    assert rising == pytest.approx([0.0, 0.1, 0.2])
    assert reference.scheduled_lambda(0, 4, 0.2) == 0.2


def test_noisy_lambda_is_clamped():
    """0.2 * (1 + 0.5 * 1) = 0.3; at n = -3, 0.2 * -0.5 < 0 gives 0; 0.8 * (1 + 0.5 * 2) = 1.6 gives 1."""
    assert reference.noisy_lambda(0.2, 0.5, 1.0) == pytest.approx(0.3)
    assert reference.noisy_lambda(0.2, 0.5, -3.0) == 0
    assert reference.noisy_lambda(0.8, 0.5, 2.0) == 1


# --------------------------------------------------------------------------------------------------- one step


class Bigram(torch.nn.Module):
    """pi(. | x) = softmax(W E(x)) with E the identity: three words, every number a fraction."""

    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(3, 3)
        self.head = torch.nn.Linear(3, 3, bias=False)
        self.double()
        transitions = rows([0.2, 0.3, 0.5], [0.25, 0.5, 0.25], [0.6, 0.3, 0.1])
        with torch.no_grad():
            self.embed.weight.copy_(torch.eye(3))
            self.head.weight.copy_(transitions.log().T)

    def get_input_embeddings(self):
        return self.embed

    def forward(self, input_ids=None, inputs_embeds=None):
        hidden = self.embed(input_ids) if inputs_embeds is None else inputs_embeds
        return SimpleNamespace(logits=self.head(hidden))


def test_lookahead_guesses_only_where_something_is_learned():
    """The favourites after 1 and 2 tokens are 2 and 0; position 1, when not trained, keeps its token."""
    favourites = {1: rows([0.0, 1.0, 2.0])[0], 2: rows([3.0, 1.0, 2.0])[0]}
    assert reference.lookahead_greedy(favourites.__getitem__, [0, 1, 1], [2]) == [0, 1, 0]
    assert reference.lookahead_greedy(favourites.__getitem__, [0, 1, 1], [1, 2]) == [0, 2, 0]


def test_a_whole_step_by_hand():
    """Tokens 0 1 2, the last two trained, lambda 1/2.

    Look-ahead: after 0 the favourite is 2 (.5), after 1 it is 1 (.5). Teacher-forced: -ln .3 and -ln .25.
    l_1 = -ln .3: position 0 is not mixed. l_2 comes from (E(1) + E(2)) / 2: the logits are the means of the
    logarithms of (.25, .5, .25) and (.6, .3, .1), so the probabilities go as sqrt(.15), sqrt(.15), sqrt(.025),
    that is as sqrt 6, sqrt 6, 1; l_2 = ln(1 + 2 sqrt 6).
    """
    step = reference.ift_step(
        Bigram(), labels_of([0, 1, 2]), labels_of([NOT, 1, 2]), residual_lambda=0.5, kind="none"
    )
    assert step.lookahead_ids.tolist() == [[0, 2, 1]]
    assert step.nll[0].tolist() == pytest.approx([0, -math.log(0.3), -math.log(0.25)])
    assert step.token_losses[0].tolist() == pytest.approx([0, -math.log(0.3), math.log(1 + 2 * math.sqrt(6))])
    assert step.loss.item() == pytest.approx((-math.log(0.3) + math.log(1 + 2 * math.sqrt(6))) / 2, abs=1e-12)


def test_the_expected_lookahead_by_hand():
    """As above with the two likeliest words after 0: .5 and .3, renormalised 5/8 of E(2) and 3/8 of E(1).

    e_1 = E(1)/2 + (5/8 E(2) + 3/8 E(1))/2 = 11/16 E(1) + 5/16 E(2). At temperature 1/2 the probabilities are
    squared first, .25 and .09, so 25/34 and 9/34 and e_1 = 43/68 E(1) + 25/68 E(2). The ids stay those of the argmax.
    """
    for temperature, own in ((1.0, 11 / 16), (0.5, 43 / 68)):
        step = reference.ift_step(
            Bigram(),
            labels_of([0, 1, 2]),
            labels_of([NOT, 1, 2]),
            residual_lambda=0.5,
            kind="none",
            lookahead="expected",
            temperature=temperature,
            top_k=2,
        )
        odds = [0.25**own * 0.6 ** (1 - own), 0.5**own * 0.3 ** (1 - own), 0.25**own * 0.1 ** (1 - own)]
        assert step.token_losses[0, 2].item() == pytest.approx(-math.log(odds[2] / sum(odds)), abs=1e-12)
        assert step.lookahead_ids.tolist() == [[0, 2, 1]]


@pytest.mark.parametrize("lookahead", ["greedy", "expected"])
def test_an_untrained_position_is_not_mixed(lookahead):
    """Position 1 is a prompt token: l_2 is the teacher-forced -ln .25 whatever lambda is."""
    step = reference.ift_step(
        Bigram(), labels_of([0, 1, 2]), labels_of([NOT, NOT, 2]), residual_lambda=0.9, lookahead=lookahead
    )
    assert step.lookahead_ids.tolist() == [[0, 1, 1]]
    assert step.token_losses[0].tolist() == pytest.approx([0, 0, -math.log(0.25)])


def test_the_gradient_reaches_both_embeddings():
    """e_1 = (E(1) + E(2)) / 2 feeds l_2, so E(1) and E(2) get the same gradient; E(0) gets its own from l_1."""
    model = Bigram()
    step = reference.ift_step(
        model, labels_of([0, 1, 2]), labels_of([NOT, 1, 2]), residual_lambda=0.5, kind="none"
    )
    step.loss.backward()
    gradient = model.embed.weight.grad
    assert gradient[1].tolist() == pytest.approx(gradient[2].tolist())
    assert gradient.abs().sum(dim=1).min() > 0.01


# ----------------------------------------------------------------------------------- one step, a real network


@pytest.fixture(scope="module")
def network():
    """A random GPT-2, float64 throughout, sharpened so that its guesses are neither all right nor all wrong."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=17,
        n_positions=16,
        n_embd=16,
        n_layer=2,
        n_head=2,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
    )
    model = GPT2LMHeadModel(config).double()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(4)
    return model.train()


def greedy_text(model, first, length):
    tokens = [first]
    for _ in range(length - 1):
        with torch.no_grad():
            tokens.append(int(model(input_ids=torch.tensor([tokens])).logits[0, -1].argmax()))
    return tokens


@pytest.fixture(scope="module")
def two_rows(network):
    """Two texts of 9 and 6 tokens that half follow the model's own greedy choice: each third is replaced."""
    texts = []
    for first, length in ((3, 9), (5, 6)):
        tokens = greedy_text(network, first, length)
        texts.append([(token + 1) % 17 if t % 3 == 2 else token for t, token in enumerate(tokens)])
    return texts


def test_lambda_zero_without_propagation_is_the_models_own_loss(network, two_rows):
    """Cross-entropy over the labelled tokens is what the model returns for `labels=`."""
    input_ids = labels_of(two_rows[0])
    labels = input_ids.clone()
    labels[0, :4] = NOT
    step = reference.ift_step(network, input_ids, labels, residual_lambda=0.0, kind="none", reduction="token")
    own = network(input_ids=input_ids, labels=labels).loss
    assert step.loss.item() == pytest.approx(own.item(), rel=1e-6)
    assert torch.allclose(step.nll, step.token_losses, atol=1e-10)


@pytest.mark.parametrize("lookahead", ["greedy", "expected"])
def test_padding_and_packing_change_nothing(network, two_rows, lookahead):
    """The two texts left-padded, right-padded and packed: the same token losses in their places, the same loss."""
    long, short = two_rows
    pad = [0, 0, 0]
    layouts = {
        "right": ([long, short + pad], [[1] * 9, [1] * 6 + pad], None, ((0, 0), (1, 0))),
        "left": ([long, pad + short], [[1] * 9, pad + [1] * 6], None, ((0, 0), (1, 3))),
        "packed": ([long + short], None, [[*range(9), *range(6)]], ((0, 0), (0, 9))),
    }
    losses, tokens = {}, {}
    for name, (ids, mask, position_ids, places) in layouts.items():
        input_ids = torch.tensor(ids)
        mask = None if mask is None else torch.tensor(mask)
        labels = input_ids.clone()
        if mask is not None:
            labels[mask == 0] = NOT
        for b, start in places:
            labels[b, start : start + 3] = NOT
        position_ids = None if position_ids is None else torch.tensor(position_ids)
        step = reference.ift_step(
            network,
            input_ids,
            labels,
            mask,
            position_ids,
            residual_lambda=0.5,
            gamma=0.8,
            lookahead=lookahead,
            top_k=5,
        )
        losses[name] = step.loss.item()
        tokens[name] = [
            step.token_losses[b, start : start + n].tolist()
            for (b, start), n in zip(places, (9, 6), strict=True)
        ]
        right = (step.lookahead_ids == input_ids)[step.trained].double().mean().item()
        assert 0.1 <= right <= 0.9, "look-aheads that are all right or all wrong prove nothing"
    assert losses["left"] == pytest.approx(losses["right"], abs=1e-12)
    assert losses["packed"] == pytest.approx(losses["right"], abs=1e-12)
    for name in ("left", "packed"):
        assert tokens[name][0] == pytest.approx(tokens["right"][0], abs=1e-12)
        assert tokens[name][1] == pytest.approx(tokens["right"][1], abs=1e-12)


def test_the_lookahead_is_what_the_prefix_alone_gives(network, two_rows):
    """`lookahead_greedy` over prefixes run one by one, later tokens never shown, against the ids of the step."""
    tokens = two_rows[0]

    def logits_of_prefix(t):
        with torch.no_grad():
            return network(input_ids=torch.tensor([tokens[:t]])).logits[0, -1]

    labels = labels_of([NOT, NOT, *tokens[2:]])
    step = reference.ift_step(network, labels_of(tokens), labels)
    assert step.lookahead_ids[0].tolist() == reference.lookahead_greedy(
        logits_of_prefix, tokens, range(2, len(tokens))
    )


def test_a_later_token_never_changes_an_earlier_loss(network, two_rows):
    """Causality: another last token leaves every earlier token loss as it was."""
    tokens = two_rows[0]
    changed = [*tokens[:-1], (tokens[-1] + 5) % 17]
    first, second = (
        reference.ift_step(network, labels_of(text), labels_of([NOT, *text[1:]]), residual_lambda=0.5)
        for text in (tokens, changed)
    )
    assert torch.allclose(first.token_losses[0, :-1], second.token_losses[0, :-1], atol=1e-12)
    assert abs(first.token_losses[0, -1] - second.token_losses[0, -1]) > 1e-3


def test_given_lookahead_ids_replace_the_guesses(network, two_rows):
    """The target as its own guess: (1 - lambda) E(x) + lambda E(x) = E(x), the teacher-forced losses."""
    input_ids = labels_of(two_rows[0])
    labels = labels_of([NOT, *two_rows[0][1:]])
    step = reference.ift_step(network, input_ids, labels, residual_lambda=0.7, lookahead_ids=input_ids)
    assert torch.allclose(step.token_losses, step.nll, atol=1e-10)


def test_the_lookahead_sees_no_dropout_and_leaves_the_mode_as_it_was():
    """GPT-2 with dropout 0.5 in training mode: the same `nll` and ids twice, other token losses."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=17,
            n_positions=16,
            n_embd=16,
            n_layer=1,
            n_head=2,
            embd_pdrop=0.5,
            bos_token_id=0,
            eos_token_id=0,
        )
    )
    model.double().train()
    model.transformer.h[0].ln_1.eval()  # a module someone froze stays frozen
    ids = labels_of([1, 2, 3, 4, 5])
    first, second = (reference.ift_step(model, ids, labels_of([NOT, 2, 3, 4, 5])) for _ in range(2))
    assert torch.equal(first.nll, second.nll)
    assert torch.equal(first.lookahead_ids, second.lookahead_ids)
    assert not torch.allclose(first.token_losses, second.token_losses)
    assert model.training
    assert model.transformer.h[0].attn.training
    assert not model.transformer.h[0].ln_1.training


def test_autograd_of_a_step_is_the_slope_of_its_loss(network, two_rows):
    """A central difference along one random direction in all weights, nothing detached: mix, propagation, scale.

    The look-ahead is a step function of the weights and constant nearby, so the whole loss is smooth there.
    """
    input_ids = labels_of(two_rows[0])
    labels = labels_of([NOT, NOT, *two_rows[0][2:]])

    def loss():
        return reference.ift_step(
            network, input_ids, labels, residual_lambda=0.4, gamma=0.7, detach="none"
        ).loss

    parameters = list(network.parameters())
    gradients = torch.autograd.grad(loss(), parameters)
    generator = torch.Generator().manual_seed(1)
    direction = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in parameters]
    slope = sum((g * d).sum() for g, d in zip(gradients, direction, strict=True)).item()
    epsilon, values = 1e-6, []
    with torch.no_grad():
        for sign in (1, -2, 1):  # forward, back past the middle, home
            for p, d in zip(parameters, direction, strict=True):
                p.add_(sign * epsilon * d)
            values.append(loss().item())
    assert (values[0] - values[1]) / (2 * epsilon) == pytest.approx(slope, rel=1e-5)
