"""lightning.Trainer drives our classes as it does torch's."""

import pytest
import torch
from classes import CLASSES
from twins import DENSE, TWINS, assert_same, both, by_class, client, options, trained

import optimfx as fx
import optimfx.optim as optim

lightning = client("lightning")

pytestmark = [
    # Lightning's use of torch's pytrees, and its advice on a loader of a few rows.
    pytest.mark.filterwarnings("ignore:`isinstance.*LeafSpec.*` is deprecated:FutureWarning:lightning"),
    pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers:UserWarning:lightning"),
]
KINDS = torch.optim, optim
ROWS = torch.linspace(-2, 2, 8 * 2 * 3).reshape(-1, 3)


class Module(lightning.LightningModule):
    """A model of matrices alone, which every class can step."""

    def __init__(self, configure):
        super().__init__()
        torch.manual_seed(0)
        self.first = torch.nn.Linear(3, 4, bias=False)
        self.second = torch.nn.Linear(4, 2, bias=False)
        self.configure = configure

    def loss(self, batch):
        return (self.second(torch.tanh(self.first(batch))) - 1).square().mean()

    def training_step(self, batch, index):
        loss = self.loss(batch)
        self.log("loss", loss)
        return loss

    def configure_optimizers(self):
        return self.configure(self)


def fit(path, module, epochs=2, resume=None, **more):
    """Eight batches an epoch."""
    trainer = lightning.Trainer(
        default_root_dir=path,
        max_epochs=epochs,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **more,
    )
    trainer.fit(module, torch.utils.data.DataLoader(ROWS, batch_size=2), ckpt_path=resume)
    return trainer


def result(trainer):
    return trained(trainer.lightning_module, trainer.optimizers[0])


@by_class(TWINS)
def test_an_optimizer_and_its_scheduler(info, tmp_path):
    """With accumulation and clipping; Lightning calls ``step`` with a closure, which evaluates and clips."""

    def configure(cls, kind, module):
        optimizer = cls(module.parameters(), lr=0.1, **options(info))
        scheduler = kind.lr_scheduler.ExponentialLR(optimizer, 0.5)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    theirs, ours = (
        fit(
            tmp_path,
            Module(lambda module, cls=cls, kind=kind: configure(cls, kind, module)),
            accumulate_grad_batches=2,
            gradient_clip_val=0.1,
        )
        for cls, kind in zip(both(info), KINDS)
    )
    assert ours.optimizers[0].param_groups[0]["lr"] == 0.1 * 0.5**8
    assert_same(result(theirs), result(ours), info)


def test_a_scheduler_of_what_is_logged(tmp_path):
    """Lightning knows ours for a plateau's, too."""

    def configure(kind, module):
        optimizer = kind.SGD(module.parameters(), lr=0.1, foreach=False)
        scheduler = kind.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=1.0)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": "loss"}}

    theirs, ours = (fit(tmp_path, Module(lambda module, kind=kind: configure(kind, module)), 3) for kind in KINDS)
    assert ours.optimizers[0].param_groups[0]["lr"] == pytest.approx(1e-4)
    assert_same(result(theirs), result(ours))


def test_lightning_with_lbfgs(tmp_path):
    """Which calls Lightning's closure many times a step; as closely as the classes agree on other functions."""
    how = dict(lr=0.5, max_iter=3, history_size=4, line_search_fn="strong_wolfe")
    theirs, ours = (
        fit(
            tmp_path,
            Module(lambda module, kind=kind: kind.LBFGS(module.parameters(), **how)),
            precision="64-true",
            limit_train_batches=1,
        )
        for kind in KINDS
    )
    evaluations = [trainer.optimizers[0].state_dict()["state"][0]["func_evals"] for trainer in (theirs, ours)]
    assert evaluations[0] == evaluations[1] > 3
    for p, q in zip(theirs.lightning_module.parameters(), ours.lightning_module.parameters()):
        torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-9)


class TwoOptimizers(Module):
    """Each has a layer, and a turn at every other batch."""

    def __init__(self, configure):
        super().__init__(configure)
        self.automatic_optimization = False

    def training_step(self, batch, index):
        optimizer, scheduler = self.optimizers()[index % 2], self.lr_schedulers()[index % 2]
        self.toggle_optimizer(optimizer)
        optimizer.zero_grad()
        self.manual_backward(self.loss(batch))
        self.clip_gradients(optimizer, gradient_clip_val=0.1, gradient_clip_algorithm="norm")
        optimizer.step()
        scheduler.step()
        self.untoggle_optimizer(optimizer)


def test_two_optimizers_by_hand(tmp_path):
    def configure(kind, module):
        first = kind.Adam(module.first.parameters(), lr=0.1, foreach=False)
        second = kind.SGD(module.second.parameters(), lr=0.1, momentum=0.9, foreach=False)
        return [first, second], [kind.lr_scheduler.StepLR(optimizer, 2) for optimizer in (first, second)]

    runs = [fit(tmp_path, TwoOptimizers(lambda module, kind=kind: configure(kind, module))) for kind in KINDS]
    theirs, ours = ([trained(run.lightning_module, optimizer) for optimizer in run.optimizers] for run in runs)
    assert [optimizer.param_groups[0]["lr"] for optimizer in runs[1].optimizers] == [pytest.approx(1e-5)] * 2
    assert_same(theirs, ours)


class Finetuning(lightning.pytorch.callbacks.BaseFinetuning):
    """The first layer is trained from the second epoch on."""

    def freeze_before_training(self, module):
        self.freeze(module.first)

    def finetune_function(self, module, epoch, optimizer):
        if epoch == 1:
            self.unfreeze_and_add_param_group(module.first, optimizer, lr=0.01)


def test_a_layer_that_is_added_in_the_middle(tmp_path):
    sgd = fx.inject_hyperparams(fx.sgd)(lr=0.1, momentum=0.9)
    makers = (
        lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9, foreach=False),
        lambda params: optim.SGD(params, lr=0.1, momentum=0.9, foreach=False),
        lambda params: optim.TransformOptimizer(params, sgd),
    )

    def configure(module, make):
        return make([p for p in module.parameters() if p.requires_grad])

    modules = [Module(lambda module, make=make: configure(module, make)) for make in makers]
    with fx.execution.use("blocked", "eager"):  # as foreach=False does
        runs = [fit(tmp_path, module, 3, callbacks=[Finetuning()]) for module in modules]
    assert all([group["lr"] for group in run.optimizers[0].param_groups] == [0.1, 0.01] for run in runs)
    theirs, *ours = ([p.detach() for p in module.parameters()] for module in modules)
    assert not torch.equal(theirs[0], Module(None).first.weight)
    for params in ours:
        assert_same(theirs, params)


OWN = fx.chain(fx.monitor(), fx.inject_hyperparams(fx.lion)(lr=0.1), fx.kahan())
MAKERS = {info.optim_cls.__name__: CLASSES[info.optim_cls] for info in DENSE} | {
    "LBFGS": lambda params: optim.LBFGS(params, max_iter=2),
    "TransformOptimizer": lambda params: optim.TransformOptimizer(params, OWN),
}


@pytest.mark.parametrize("name", MAKERS)
def test_resuming_from_a_checkpoint(name, tmp_path):
    """Ends, bit for bit, where the run ends that nothing has interrupted."""

    def configure(module):
        optimizer = MAKERS[name](module.parameters())
        return [optimizer], [optim.lr_scheduler.ExponentialLR(optimizer, 0.5)]

    whole = fit(tmp_path, Module(configure))
    half = fit(tmp_path, Module(configure), epochs=1)
    half.save_checkpoint(tmp_path / "half.ckpt")
    resumed = fit(tmp_path, Module(configure), resume=tmp_path / "half.ckpt")
    assert_same(result(whole), result(resumed))
