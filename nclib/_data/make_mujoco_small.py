"""Make mujoco-small.npz: imitation data of three MuJoCo robots, driven by scripted experts.

    pip install "neural-collapse-reproduced[robots] @ git+https://github.com/neural-collapse-reproduced/book"
    python nclib/_data/make_mujoco_small.py [OUTPUT]

Each expert is a few numbers in this file; nothing is learned here and nothing is downloaded.

- Reacher: inverse kinematics for the target, then a proportional-derivative law for the two joints.
- Swimmer: a gait, ``tanh`` of eight gains times the two joint angles and their velocities. The
  gains were found with the cross-entropy method. ``swimmer-slow`` takes random gains instead,
  which swim about as fast as published agents.
- Hopper: a linear policy on normalized states, found by augmented random search.

States are stored before the action that they lead to; actions are clipped to the robot's range.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from make_fashion_mnist_small import pack

LINKS = np.array([0.1, 0.11])  # lengths of Reacher's arm, in meters
REACHER_GAINS = np.array([[0.20, 0.12], [0.04, 0.024]])  # proportional, derivative; one a joint

SWIMMER_GAINS = {
    "swimmer": np.array([[0.68, -1.84, 1.66, -0.88], [1.68, -0.96, 2.60, 0.71]]),
    "swimmer-slow": np.array([[0.08, -2.72, 0.06, -0.11], [1.80, -1.83, -1.25, 0.67]]),
}

HOPPER_WEIGHT = np.array([
    [0.02, -0.2465, 0.0163, 0.1696, -0.3525, -0.1036, 0.0202, -0.4356, -0.0397, 0.0583, 0.1019],
    [0.1601, -0.3188, 0.1173, 0.0715, 0.0862, -0.02, 0.1417, -0.0339, 0.0207, -0.0608, 0.1807],
    [0.4645, 0.2804, 0.3679, -0.1571, -0.1229, -0.1866, -0.0783, -0.1297, 0.1357, 0.2467, 0.1718],
])
HOPPER_MEAN = np.array(
    [1.2715, -0.0483, -0.5049, -0.033, 0.2496, 1.7443, -0.1509, -0.0519, -0.3551, -0.2966, -0.3808]
)
HOPPER_STD = np.array(
    [0.1807, 0.0713, 0.292, 0.1635, 0.5882, 0.8703, 1.3305, 0.8221, 1.5837, 1.4594, 5.3549]
)


def wrapped(angle: np.ndarray) -> np.ndarray:
    """Angles in (−π, π]."""
    return np.arctan2(np.sin(angle), np.cos(angle))


def reacher(state: np.ndarray) -> np.ndarray:
    """Torques toward the joint angles that put the fingertip on the target."""
    now = np.arctan2(state[2:4], state[0:2])
    x, y = state[4:6]
    bend = (x * x + y * y - LINKS @ LINKS) / (2 * LINKS.prod())
    elbow = np.arccos(np.clip(bend, -1, 1)) * np.array([1, -1])
    shoulder = np.arctan2(y, x) - np.arctan2(
        LINKS[1] * np.sin(elbow), LINKS[0] + LINKS[1] * np.cos(elbow)
    )
    errors = wrapped(np.stack([shoulder, elbow], 1) - now)
    error = errors[np.square(errors).sum(1).argmin()]  # the nearer of the two elbow positions
    return REACHER_GAINS[0] * error - REACHER_GAINS[1] * state[6:8]


def swimmer(gains: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Both joints from their angles (state 1, 2) and angular velocities (state 6, 7)."""
    return lambda state: np.tanh(gains @ state[[1, 2, 6, 7]])


def hopper(state: np.ndarray) -> np.ndarray:
    return HOPPER_WEIGHT @ ((state - HOPPER_MEAN) / HOPPER_STD)


# name: (environment, policy, {split: (episodes, keep every so many-th step, samples)})
RECIPES = {
    "reacher": ("Reacher-v5", reacher, {"train": (20, 1, 1000), "test": (4, 1, 200)}),
    **{
        name: ("Swimmer-v5", swimmer(gains), {"train": (1, 1, 1000), "test": (1, 5, 200)})
        for name, gains in SWIMMER_GAINS.items()
    },
    "hopper": ("Hopper-v5", hopper, {"train": (11, 5, 2000), "test": (3, 5, 400)}),
}


def episode(env, policy, seed: int) -> tuple[np.ndarray, np.ndarray, float]:
    """States (T, D), clipped actions (T, n) and the return of one episode."""
    low, high = env.action_space.low, env.action_space.high
    states, actions, total, done = [], [], 0.0, False
    state, _ = env.reset(seed=seed)
    while not done:
        action = np.clip(policy(state), low, high)
        states.append(state)
        actions.append(action)
        state, reward, terminated, truncated, _ = env.step(action)
        total += float(reward)
        done = terminated or truncated
    return np.array(states), np.array(actions), total


def arrays() -> dict[str, np.ndarray]:
    """For each robot and split: ``states`` (N, D), ``actions`` (N, n), ``returns`` (episodes,)."""
    import gymnasium

    out = {}
    for name, (env_name, policy, splits) in RECIPES.items():
        env = gymnasium.make(env_name)
        first = 0  # every episode has a seed of its own
        for split, (episodes, every, samples) in splits.items():
            runs = [episode(env, policy, seed) for seed in range(first, first + episodes)]
            first += episodes
            for key, i in (("states", 0), ("actions", 1)):
                rows = np.concatenate([r[i][::every] for r in runs])[:samples]
                if len(rows) != samples:
                    raise RuntimeError(f"{name} ({split}): {len(rows)} of {samples} steps")
                out[f"{name}_{split}_{key}"] = rows.astype(np.float32)
            out[f"{name}_{split}_returns"] = np.array([r[2] for r in runs], dtype=np.float32)
        env.close()
    return out


def main() -> None:
    default = Path(__file__).with_name("mujoco-small.npz")
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else default
    blob = pack(arrays())
    target.write_bytes(blob)
    print(f"{hashlib.sha256(blob).hexdigest()}  {target} ({len(blob)} bytes)")


if __name__ == "__main__":
    main()
