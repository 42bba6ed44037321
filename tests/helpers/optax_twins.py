"""Every algorithm in Optax, by the name that it has here and under torch's words.

``None`` for options that Optax does not have. Without a twin are those that it does not have or defines otherwise:
nadam, whose momentum does not grow there; rprop, which it gives one call late; adafactor, with another eps and learning
rate; muon, with another average.
"""

import jax
import optax
import optax.contrib


def _chain(weight_decay, maximize, optimizer):
    ascent = optax.scale(-1.0) if maximize else optax.identity()
    return optax.chain(ascent, optax.add_decayed_weights(weight_decay), optimizer)


def sgd(lr, momentum=0.0, dampening=0.0, weight_decay=0.0, nesterov=False, maximize=False):
    if dampening:  # Optax has none
        return None
    return _chain(weight_decay, maximize, optax.sgd(lr, momentum=momentum or None, nesterov=nesterov))


def adam(lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, amsgrad=False, maximize=False, eps_root=0.0):
    if amsgrad:  # Optax takes the maximum after the bias correction
        return None
    return _chain(weight_decay, maximize, optax.adam(lr, *betas, eps=eps, eps_root=eps_root))


def adamw(lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2, amsgrad=False, maximize=False, eps_root=0.0):
    if amsgrad:
        return None
    adamw = optax.adamw(lr, *betas, eps=eps, eps_root=eps_root, weight_decay=weight_decay)
    return _chain(0.0, maximize, adamw)


def rmsprop(lr=1e-2, alpha=0.99, eps=1e-8, weight_decay=0.0, momentum=0.0, centered=False, maximize=False):
    rms = optax.rmsprop(lr, decay=alpha, eps=eps, eps_in_sqrt=False, centered=centered, momentum=momentum or None)
    return _chain(weight_decay, maximize, rms)


def lion(lr=1e-4, betas=(0.9, 0.99), weight_decay=0.0, maximize=False):
    return _chain(0.0, maximize, optax.lion(lr, *betas, weight_decay=weight_decay))


def adamax(lr=2e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, maximize=False):
    return _chain(weight_decay, maximize, optax.adamax(lr, *betas, eps=eps))


def radam(lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, decoupled_weight_decay=False, maximize=False):
    if eps or decoupled_weight_decay:  # Optax corrects the second moment before it adds eps, and has no decay
        return None
    return _chain(weight_decay, maximize, optax.radam(lr, *betas, eps=eps))


def adagrad(lr=1e-2, lr_decay=0.0, weight_decay=0.0, initial_accumulator_value=0.0, eps=1e-10, maximize=False):
    if eps:  # in Optax it stands under the root
        return None
    adagrad = optax.adagrad(lambda step: lr / (1 + step * jax.numpy.float64(lr_decay)), initial_accumulator_value, eps)
    return _chain(weight_decay, maximize, adagrad)


def adadelta(lr=1.0, rho=0.9, eps=1e-6, weight_decay=0.0, maximize=False):
    return _chain(weight_decay, maximize, optax.adadelta(lr, rho, eps))


def adabelief(lr=1e-3, betas=(0.9, 0.999), eps=1e-16, maximize=False, eps_root=1e-16):
    return _chain(0.0, maximize, optax.adabelief(lr, *betas, eps=eps, eps_root=eps_root))


def yogi(lr=1e-3, betas=(0.9, 0.999), eps=1e-3, initial_accumulator_value=1e-6, maximize=False):
    direction = optax.scale_by_yogi(*betas, eps, 0.0, initial_accumulator_value)
    return _chain(0.0, maximize, optax.chain(direction, optax.scale_by_learning_rate(lr)))


def adan(lr=1e-3, betas=(0.98, 0.92, 0.99), eps=1e-8, weight_decay=0.0, maximize=False, eps_root=1e-8):
    return _chain(0.0, maximize, optax.adan(lr, *betas, eps, eps_root, weight_decay))


def ademamix(lr=1e-3, betas=(0.9, 0.999, 0.9999), alpha=5.0, eps=1e-8, weight_decay=0.0, maximize=False, eps_root=0.0):
    ademamix = optax.contrib.ademamix(lr, *betas, alpha, eps, eps_root, weight_decay=weight_decay)
    return _chain(0.0, maximize, ademamix)


def fourth_root(step):
    """Optax takes that of an integer step, in float32."""
    return jax.numpy.float64(step) ** 0.25


def adopt(lr=1e-3, betas=(0.9, 0.9999), eps=1e-6, clip=True, maximize=False):
    adopt = optax.contrib.adopt(lr, *betas, eps, use_clipping=clip, clip_value_fn=fourth_root)
    return _chain(0.0, maximize, adopt)


def signsgd(lr=1e-3, momentum=0.0, maximize=False):
    return _chain(0.0, maximize, optax.signum(lr, momentum) if momentum else optax.sign_sgd(lr))


def lars(
    lr=1e-3, momentum=0.9, weight_decay=0.0, trust_coefficient=1e-3, eps=0.0, nesterov=False, maximize=False
):  # fmt: skip
    ratio = {"trust_coefficient": trust_coefficient, "eps": eps}
    return _chain(0.0, maximize, optax.lars(lr, weight_decay, momentum=momentum, nesterov=nesterov, **ratio))


def lamb(lr=1e-3, betas=(0.9, 0.999), eps=1e-6, weight_decay=0.0, maximize=False, eps_root=0.0):
    return _chain(0.0, maximize, optax.lamb(lr, *betas, eps, eps_root, weight_decay))


def novograd(lr=1e-3, betas=(0.9, 0.25), eps=1e-6, weight_decay=0.0, maximize=False, eps_root=0.0):
    return _chain(0.0, maximize, optax.novograd(lr, *betas, eps, eps_root, weight_decay))


def prodigy(lr=1.0, estim_lr0=1e-6, eps=1e-8, **options):
    if eps > 1e-12 and estim_lr0 > 1e-3:  # Optax scales eps by the next estimate
        return None
    return optax.contrib.prodigy(lr, estim_lr0=estim_lr0, eps=eps, **options)


def dadapt_adamw(lr=1.0, **options):
    return optax.contrib.dadapt_adamw(lr, **options)


def momo(lr=1.0, **options):
    return optax.contrib.momo(lr, **options)


def momo_adam(lr=1e-2, betas=(0.9, 0.999), **options):
    return optax.contrib.momo_adam(lr, *betas, **options)


def fromage(lr=1e-2, min_norm=1e-6, maximize=False):
    return _chain(0.0, maximize, optax.fromage(lr, min_norm))


def scale_by_factored_rms(decay_rate=0.8, eps=1e-30, **options):
    # Its own decay is computed in float32.
    def decay(step, exponent):
        return 1.0 - (jax.numpy.float64(step) + 1) ** -exponent

    return optax.scale_by_factored_rms(decay_rate=decay_rate, epsilon=eps, decay_rate_fn=decay, **options)


def scale_by_sm3(**options):
    """Optax's, which has no accumulator for a scalar, on a vector of one."""
    twin = optax.scale_by_sm3(**options)

    def update(updates, state, params=None):
        after, state = twin.update(jax.tree.map(jax.numpy.atleast_1d, updates), state)
        return jax.tree.map(lambda new, old: new.reshape(old.shape), after, updates), state

    return optax.GradientTransformation(lambda params: twin.init(jax.tree.map(jax.numpy.atleast_1d, params)), update)


def madgrad(lr=1e-2, **options):
    """Optax's, with a count in float64: the root of an integer would be in float32."""
    twin = optax.contrib.madgrad(lr, **options)

    def init(params):
        decay, state = twin.init(params)
        return decay, state._replace(count=state.count.astype(jax.numpy.float64))

    return optax.GradientTransformation(init, twin.update)


scale_by_madgrad = madgrad
