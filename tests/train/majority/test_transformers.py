"""Majority kernels in models of the transformers library: T5's projections, GPT-2's Conv1D, never the embeddings."""

import pytest
import torch

from collegium import collapse, expand, fuse
from collegium.train.majority.kernel import MajorityKernel, majority_kernels, mixing

transformers = pytest.importorskip("transformers")


@pytest.fixture
def t5():
    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=20, d_model=8, d_kv=4, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0, dropout_rate=0.0
    )
    return transformers.T5ForConditionalGeneration(config)


def batch():
    generator = torch.Generator().manual_seed(0)
    return {
        "input_ids": torch.randint(20, (3, 5), generator=generator),
        "labels": torch.randint(20, (3, 4), generator=generator),
    }


def test_t5_projections_are_majority_kernels(t5):
    linear = {name for name, module in t5.named_modules() if isinstance(module, torch.nn.Linear)}
    expand(t5, 3, init="replicated")
    found = {name.removesuffix(".parametrizations.weight.0") for name in majority_kernels(t5)}
    assert found == linear - {"lm_head"} or found == linear  # the head, where it is not tied
    assert not [name for name in found if "shared" in name or "embed" in name]


def test_t5_trains_collapses_and_saves(t5, tmp_path):
    keys = list(t5.state_dict())
    with torch.no_grad():
        before = t5.eval()(**batch()).logits
    expand(t5, 3, init="replicated", seed=0)
    with torch.no_grad():
        torch.testing.assert_close(t5(**batch()).logits, before, rtol=1e-4, atol=1e-5)
    t5.train()
    optimizer = fuse(torch.optim.AdamW(t5.parameters(), lr=0.01), t5)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = t5(**batch()).loss
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0]
    with torch.no_grad():
        expected = t5.eval()(**batch()).logits
    collapse(t5)
    assert list(t5.state_dict()) == keys
    t5.save_pretrained(tmp_path)
    loaded = transformers.T5ForConditionalGeneration.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        torch.testing.assert_close(loaded(**batch()).logits, expected)


def test_weights_that_are_read_often_are_drawn_once_a_pass(t5, monkeypatch):
    """T5 reads the type of some weights before it uses them."""
    from collegium.train.majority import operators

    expand(t5, 3, seed=0).train()
    calls = []
    plain = operators.mix
    monkeypatch.setattr(operators, "mix", lambda *arguments, **named: calls.append(1) or plain(*arguments, **named))
    t5(**batch())
    assert len(calls) == len(majority_kernels(t5))


def test_gpt2_s_transposed_layers():
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=20, n_embd=8, n_layer=1, n_head=2, n_positions=8, attn_pdrop=0.0)
    model = transformers.GPT2LMHeadModel(config).eval()
    tokens = torch.arange(5)[None]
    with torch.no_grad():
        before = model(tokens).logits
    expand(model, 2, init="replicated", seed=0)
    assert {name.split(".")[-4] for name in majority_kernels(model)} == {"c_attn", "c_proj", "c_fc"}
    with torch.no_grad(), mixing(model, "sample"):
        torch.testing.assert_close(model(tokens).logits, before, rtol=1e-4, atol=1e-5)
    assert model.lm_head.weight is model.transformer.wte.weight
    assert not any(isinstance(module, MajorityKernel) for module in collapse(model).modules())
