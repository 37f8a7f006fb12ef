"""Quantization-aware training in small: a random teacher, and a student that learns to be like it when rounded."""

import copy

import torch
import transformers

import requant.torch as rt

VOCABULARY = 256


def student_and_teacher(seed, layers=2):
    """Two equal models, and tokens that training never sees."""
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=256,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.05,
        tie_word_embeddings=False,
    )
    teacher = transformers.LlamaForCausalLM(config).eval()
    held = torch.randint(0, VOCABULARY, (16, 32), generator=torch.Generator().manual_seed(1000 + seed))
    return copy.deepcopy(teacher), teacher, held


@torch.no_grad()
def kl(student, teacher, tokens):
    """KL(teacher ‖ student) in nats, as the mean over positions."""
    ours, theirs = (torch.log_softmax(model(tokens).logits.double(), -1) for model in (student, teacher))
    return float((theirs.exp() * (theirs - ours)).sum(-1).mean())


def trained(student, teacher, seed, steps, rate=5e-5):
    """Train it on random tokens, towards the teacher's logits."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(student.parameters(), lr=rate, weight_decay=0, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, steps)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for _ in range(steps):
            tokens = torch.randint(0, VOCABULARY, (16, 16), generator=generator)
            with torch.no_grad():
                target = teacher(tokens).logits
            loss = rt.distillation_loss(student(tokens).logits, target, temperature=1.0)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    finally:
        torch.set_num_threads(threads)
