"""transformers.Trainer drives our classes as it does torch's."""

import gc

import pytest
import torch
from twins import ANY_SHAPE, assert_same, both, by_class, client, options, trained

import optimfx as fx
import optimfx.optim as optim

transformers = client("transformers")
client("accelerate")  # which the Trainer needs

LR = 0.01


@pytest.fixture(autouse=True, scope="module")
def _little_garbage():
    """A Trainer collects garbage at the start of a run, which takes longer than the run if all modules are searched."""
    gc.freeze()
    yield
    gc.unfreeze()


def model():
    """With dropout, so that a resumed run needs the random numbers of the interrupted one."""
    torch.manual_seed(0)
    sizes = dict(vocab_size=16, n_positions=4, n_embd=4, n_layer=1, n_head=2)
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, bos_token_id=0, eos_token_id=0))


def trainer(path, module, optimizer_cls_and_kwargs=None, optimizers=(None, None), callbacks=(), **args):
    """Six steps of two batches each, with clipping, decay and a warm-up."""
    tokens = torch.randint(0, 16, (20, 4), generator=torch.Generator().manual_seed(1))
    data = [{"input_ids": x, "labels": x} for x in tokens]
    defaults = dict(
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        max_steps=6,
        learning_rate=LR,
        warmup_steps=2,
        weight_decay=0.1,
        max_grad_norm=0.5,
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
    )
    return transformers.Trainer(
        module,
        transformers.TrainingArguments(path, **{**defaults, **args}),
        train_dataset=data,
        eval_dataset=data[:4],
        optimizers=optimizers,
        optimizer_cls_and_kwargs=optimizer_cls_and_kwargs,
        callbacks=list(callbacks),
    )


def train(path, cls, options, resume=None, callbacks=(), **args):
    """With an optimizer that the Trainer makes."""
    module = model()
    run = trainer(path, module, (cls, options), callbacks=callbacks, **args)
    run.train(resume_from_checkpoint=resume)
    return trained(module, run.optimizer)


@by_class(ANY_SHAPE)
def test_a_class_that_the_trainer_makes(info, tmp_path):
    """In the groups of the Trainer: what decays, and biases and norms, which do not."""
    theirs, ours = (train(tmp_path, cls, {"lr": LR, **options(info)}) for cls in both(info))
    assert [group["weight_decay"] for group in ours[1]["param_groups"]] == [0.1, 0.0]
    assert_same(theirs, ours, info)


SCHEDULERS = {
    "by the step": (lambda kind, optimizer: kind.OneCycleLR(optimizer, 0.05, total_steps=7), {}),
    "by the loss": (
        lambda kind, optimizer: kind.ReduceLROnPlateau(optimizer, factor=0.5, patience=0, threshold=1.0),
        dict(eval_strategy="steps", eval_steps=1, metric_for_best_model="eval_loss"),
    ),
}


@pytest.mark.parametrize("make, args", SCHEDULERS.values(), ids=SCHEDULERS.keys())
def test_an_optimizer_and_a_scheduler_that_it_is_given(make, args, tmp_path):
    """The rates of the steps, to the rounding of a schedule; and the Trainer knows ours for a plateau's."""
    runs = []
    for kind in (torch.optim, optim):
        module = model()
        optimizer = kind.AdamW(module.parameters(), lr=LR, foreach=False)
        scheduler = make(kind.lr_scheduler, optimizer)
        trainer(tmp_path, module, optimizers=(optimizer, scheduler), **args).train()
        runs.append((trained(module, optimizer), scheduler.get_last_lr()))
    (theirs, their_lr), (ours, our_lr) = runs
    assert our_lr == pytest.approx(their_lr, rel=1e-14) and our_lr[0] < LR / 10
    assert_same(theirs, ours)


class Interruption(transformers.TrainerCallback):
    """In the middle of the run."""

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step == 3


OWN = fx.chain(fx.clip_by_value(0.1), fx.inject_hyperparams(fx.adamw)(lr=LR, weight_decay=0.1))
RESUMED = {
    "ours": (optim.AdamW, optim.AdamW, {"lr": LR}),
    "carried scalars": (optim.NAdam, optim.NAdam, {"lr": LR}),
    "not one of torch's": (optim.LAMB, optim.LAMB, {"lr": LR}),
    "a transformation": (optim.TransformOptimizer, optim.TransformOptimizer, {"tx": OWN}),
    "from torch's to ours": (torch.optim.AdamW, optim.AdamW, {"lr": LR, "foreach": False}),
    "from ours to torch's": (optim.AdamW, torch.optim.AdamW, {"lr": LR, "foreach": False}),
}


@pytest.mark.parametrize("before, after, options", RESUMED.values(), ids=RESUMED.keys())
def test_resuming_from_a_checkpoint(before, after, options, tmp_path):
    """Ends, bit for bit, where the run ends that nothing has interrupted."""
    whole = train(tmp_path / "whole", after, options)
    often = dict(save_strategy="steps", save_steps=3)
    half = train(tmp_path / "parts", before, options, callbacks=[Interruption()], **often)
    resumed = train(tmp_path / "parts", after, options, resume=True)
    assert not torch.equal(half[0][0], whole[0][0])
    assert_same(whole, resumed)


def test_a_transformation_takes_the_groups_and_the_rates_of_the_trainer(tmp_path):
    """Its injected hyperparameters: the Trainer's warm-up, and a group without decay."""
    tx = fx.inject_hyperparams(fx.adamw)(lr=LR, weight_decay=0.01)
    own, _ = train(tmp_path, optim.TransformOptimizer, {"tx": tx})
    ours, _ = train(tmp_path, optim.AdamW, {"lr": LR})
    assert_same(ours, own)
