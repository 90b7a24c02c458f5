import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from score_edge.learning.adapter import Adapter  # noqa: E402


class Blocks(torch.nn.Module):
    """A decoder with a head that is none of its layers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList([torch.nn.Linear(6, 6), torch.nn.Sequential(torch.nn.Linear(6, 4))])
        self.out = torch.nn.Linear(4, 3)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.out(x)


def test_it_adds_what_its_matrices_say():
    torch.manual_seed(0)
    decoder, x = Blocks(), torch.randn(5, 6)
    plain = decoder(x)
    adapter = Adapter(decoder, 2, seed=3)
    assert adapter.layers == ["layers.0", "layers.1.0"]
    assert torch.equal(decoder(x), plain)  # it starts as if it were not there
    for b in adapter.b:
        torch.nn.init.normal_(b)
    first, second = adapter.matrices().values()
    weights = [
        layer.weight + adapter.alpha / 2 * b @ a
        for layer, (a, b) in zip((decoder.layers[0], decoder.layers[1][0]), (first, second), strict=True)
    ]
    expected = decoder.out((x @ weights[0].T + decoder.layers[0].bias) @ weights[1].T + decoder.layers[1][0].bias)
    assert torch.allclose(decoder(x), expected, atol=1e-5)
    with adapter.off():
        assert torch.equal(decoder(x), plain)
    assert not torch.equal(decoder(x), plain)


def test_it_learns_in_float32_beside_half_precision():
    torch.manual_seed(0)
    decoder = Blocks().bfloat16().requires_grad_(False)
    adapter = Adapter(decoder, 2)
    loss = decoder(torch.randn(5, 6, dtype=torch.bfloat16)).float().square().mean()
    loss.backward()
    assert all(b.grad.dtype == torch.float32 and b.grad.abs().sum() > 0 for b in adapter.b)


def test_the_seed_says_where_it_starts():
    same = [Adapter(Blocks(), 2, seed).a[1] for seed in (1, 1, 2)]
    assert torch.equal(same[0], same[1]) and not torch.equal(same[0], same[2])
