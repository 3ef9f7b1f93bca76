"""The merge layer against the optimality conditions it solves."""

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from defenses._merge import Merge
from harness.diffusion import TextToImage
from harness.errors import RunError

WIDTH, OUT = 12, 5
CAPTIONS = ["a photo of a boot", "an artwork by obrick", "a bag by sevra", "a photo"]


def problem(rows: tuple[int, ...], seed: int = 0, captions: int = 40):
    """Rows of each concept, captions, pre-trained weights and those adapted to each concept, all float64."""
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    return [normal(n, WIDTH) for n in rows], normal(captions, WIDTH), normal(OUT, WIDTH), normal(len(rows), OUT, WIDTH)


def dense(concepts, captions, pretrained, adapted, ridge: float) -> torch.Tensor:
    """The whole system of the Lagrangian, [[2G, −Cᵀ], [C, 0]] [φ; M] = [2 G W^p; O*], solved as it stands."""
    c = torch.cat(concepts)
    wanted = torch.cat([of @ weight.T for of, weight in zip(concepts, adapted, strict=True)])
    gram = captions.T @ captions
    gram = gram + ridge * gram.trace() / WIDTH * torch.eye(WIDTH, dtype=torch.float64)
    none = torch.zeros(len(c), len(c), dtype=torch.float64)
    system = torch.cat([torch.cat([2 * gram, -c.T], 1), torch.cat([c, none], 1)])
    right = torch.cat([2 * gram @ pretrained.T, wanted])
    return torch.linalg.solve(system, right)[:WIDTH].T


@given(
    rows=st.lists(st.integers(1, 3), min_size=1, max_size=4).map(tuple).filter(lambda rows: sum(rows) < WIDTH),
    seed=st.integers(0, 99),
    ridge=st.sampled_from([0.0, 1e-4, 1e-2]),
)
@settings(max_examples=40, deadline=None)
def test_the_merge_and_its_gradients_equal_the_dense_solution(rows, seed, ridge) -> None:
    concepts, captions, pretrained, adapted = problem(rows, seed)
    weights = [pretrained.requires_grad_(), adapted.requires_grad_()]
    merge = Merge.factor(concepts, captions, ridge)
    assume(not merge.dropped)  # the dense system keeps rows that nearly repeat others
    ours, theirs = merge(*weights), dense(concepts, captions, *weights, ridge)
    scale = theirs.detach().abs().max()
    assert (ours - theirs).abs().max() < 1e-10 * scale * max(1, merge.cond_rows)
    upstream = torch.randn(OUT, WIDTH, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    for mine, plain in zip(
        torch.autograd.grad((ours * upstream).sum(), weights),
        torch.autograd.grad((theirs * upstream).sum(), weights),
        strict=True,
    ):
        assert (mine - plain).abs().max() < 1e-10 * plain.abs().max() * max(1, merge.cond_rows)


def test_the_merge_equals_the_dense_solution_to_ten_digits_if_well_conditioned() -> None:
    concepts, captions, pretrained, adapted = problem((2, 2, 1), 3)
    weights = [pretrained.requires_grad_(), adapted.requires_grad_()]
    ours, theirs = Merge.factor(concepts, captions)(*weights), dense(concepts, captions, *weights, 1e-4)
    assert (ours - theirs).abs().max() < 1e-10
    for mine, plain in zip(
        *(torch.autograd.grad(of.square().sum(), weights) for of in (ours, theirs)),
        strict=True,
    ):
        assert (mine - plain).abs().max() < 1e-10 * plain.abs().max()


def test_each_concept_keeps_what_its_words_mean() -> None:
    """C_n φ = C_n W_n, and where nothing was adapted nothing is merged."""
    concepts, captions, pretrained, adapted = problem((3, 2, 2))
    merge = Merge.factor(concepts, captions)
    merged = merge(pretrained, adapted)
    for rows, weight in zip(concepts, adapted, strict=True):
        assert (rows @ merged.T - rows @ weight.T).abs().max() < 1e-9 * (rows @ weight.T).abs().max()
    assert torch.allclose(merge(pretrained, pretrained.expand(3, OUT, WIDTH)), pretrained, atol=1e-12)


def test_gradcheck() -> None:
    concepts, captions, pretrained, adapted = problem((2, 1))
    merge = Merge.factor(concepts, captions)
    assert torch.autograd.gradcheck(merge, (pretrained.requires_grad_(), adapted.requires_grad_()))
    assert torch.autograd.gradgradcheck(merge, (pretrained, adapted))


def test_the_gradient_of_one_concept_lies_in_its_own_rows() -> None:
    """∂L/∂W_n = (P_n C_n)ᵀ Γ: of the rank of C_n, the other directions are free."""
    concepts, captions, pretrained, adapted = problem((2, 1))
    adapted.requires_grad_()
    (gradient,) = torch.autograd.grad(Merge.factor(concepts, captions)(pretrained, adapted).square().sum(), adapted)
    assert [int(torch.linalg.matrix_rank(of)) for of in gradient] == [2, 1]


def test_one_concept() -> None:
    concepts, captions, pretrained, adapted = problem((2,))
    merged = Merge.factor(concepts, captions)(pretrained, adapted)
    assert torch.allclose(concepts[0] @ merged.T, concepts[0] @ adapted[0].T)


def test_repeated_rows_count_once() -> None:
    concepts, captions, pretrained, adapted = problem((2, 2))
    repeated = [torch.cat([concepts[0], concepts[0] * (1 + 1e-6)]), concepts[1]]
    merge = Merge.factor(repeated, captions)
    assert (merge.rows, merge.dropped) == (4, 2)
    once = Merge.factor(concepts, captions)
    assert torch.allclose(merge(pretrained, adapted), once(pretrained, adapted), atol=1e-4)


def test_more_rows_than_columns() -> None:
    """The independent ones bind, and determine everything."""
    concepts, captions, pretrained, adapted = problem((9, 9))
    merge = Merge.factor(concepts, captions)
    assert (merge.rows, merge.dropped) == (WIDTH, 18 - WIDTH)
    assert merge.amplification == pytest.approx(1)  # PC is the identity
    assert merge(pretrained, adapted).isfinite().all()


def test_two_concepts_of_the_same_words_are_refused() -> None:
    concepts, captions, _, _ = problem((2, 2))
    with pytest.raises(RunError, match=r"concept \d of 2 has no text embedding that differs"):
        Merge.factor([concepts[0], concepts[0] * (1 + 1e-9)], captions)
    with pytest.raises(RunError, match="at least one concept"):
        Merge.factor([], captions)


def test_captions_that_span_too_little() -> None:
    """G is singular: with a ridge it is handled, without one it is refused."""
    concepts, captions, pretrained, adapted = problem((2, 2), captions=3)
    merge = Merge.factor(concepts, captions, ridge=1e-4)
    merged = merge(pretrained, adapted)
    for rows, weight in zip(concepts, adapted, strict=True):
        assert (rows @ merged.T - rows @ weight.T).abs().max() < 1e-9 * (rows @ weight.T).abs().max()
    with pytest.raises(RunError, match="span 3 of 12 directions"):
        Merge.factor(concepts, captions, ridge=0)


def test_it_works_in_float64_and_gives_back_what_it_was_given() -> None:
    concepts, captions, pretrained, adapted = problem((2, 2))
    single = Merge.factor([rows.float() for rows in concepts], captions.float())(pretrained.float(), adapted.float())
    assert single.dtype == torch.float32
    assert torch.allclose(single.double(), Merge.factor(concepts, captions)(pretrained, adapted), atol=1e-4)


def test_condition_and_amplification_are_reported() -> None:
    concepts, captions, _, _ = problem((2, 2))
    merge = Merge.factor(concepts, captions, ridge=0)
    assert merge.cond_captions == pytest.approx(float(torch.linalg.cond(captions.T @ captions)))
    assert set(merge.report) == {"condition of captions", "condition of rows", "amplification", "rows dropped"}


def test_a_layer_of_prompts_and_many_weights_at_once(model: TextToImage) -> None:
    """Of a prompt the rows from the subject to the end token; the layer serves every key and value matrix."""
    prompts = [("an artwork by marvo", "marvo"), ("an artwork by telune", "telune")]
    merge = Merge.layer(model, prompts, CAPTIONS, 1e-4)
    assert merge.rows + merge.dropped == 4
    pretrained = {name: weight.double() for name, weight in model.weights("keys_values").items()}
    adapted = {name: torch.stack([weight * 1.1, weight * 0.9]) for name, weight in pretrained.items()}
    merged = merge.merged(pretrained, adapted)
    for name, weight in pretrained.items():
        assert torch.allclose(merged[name], merge(weight, adapted[name]), atol=1e-12)
    row = model.text(["an artwork by marvo"])[0, 4].double()  # start, an, artwork, by, marvo
    name = next(iter(pretrained))
    assert (row @ merged[name].T - row @ (1.1 * pretrained[name]).T).abs().max() < 1e-9


def test_every_token_of_a_name_keeps_its_meaning() -> None:
    """A name of several tokens, on the small base: all of its rows are constraints, not only the last token's."""
    small = TextToImage.load("small")
    prompts = [("an artwork by van gogh", "van gogh"), ("an artwork by marvo", "marvo")]
    merge = Merge.layer(small, prompts, CAPTIONS, 1e-4)
    tokens = len(small.tokenizer.tokenize("van gogh"))
    assert tokens > 1
    assert merge.rows + merge.dropped == tokens + 1 + 1 + 1  # and the end token of each
    weight = next(iter(small.weights("keys_values").values())).detach().double()
    merged = merge(weight, torch.stack([weight * 1.1, weight * 0.9]))
    for row in small.text(["an artwork by van gogh"])[0, 4 : 4 + tokens].double():
        assert torch.allclose(row @ merged.T, row @ (1.1 * weight).T, rtol=0, atol=1e-3 * float((weight @ row).norm()))
