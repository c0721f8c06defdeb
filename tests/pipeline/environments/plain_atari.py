"""One Atari game through ALE's plain interface: preprocessing written out, with no autoreset."""

from __future__ import annotations

from collections import deque
from functools import cache

import numpy as np
from ale_py import Action, ALEInterface, LoggerMode, roms

from pipeline.environments.atari import AtariOptions


class PlainAtari:
    """Sticky actions and idle starts are off; seeds and actions as given."""

    def __init__(self, game: str, options: AtariOptions, seed: int) -> None:
        assert options.noop_max == 0
        assert options.repeat_action_probability == 0
        ALEInterface.setLoggerMode(LoggerMode.Error)
        self.ale = ALEInterface()
        self.ale.setInt("random_seed", seed)
        self.ale.setFloat("repeat_action_probability", 0.0)
        self.ale.loadROM(roms.get_rom_path(game))
        full = options.full_action_space
        self.actions = self.ale.getLegalActionSet() if full else self.ale.getMinimalActionSet()
        self.options = options

    def screen(self) -> np.ndarray:
        if self.options.grayscale:
            return self.ale.getScreenGrayscale()
        return self.ale.getScreenRGB()

    def reset(self) -> np.ndarray:
        self.ale.reset_game()
        if self.options.use_fire_reset and Action.FIRE in self.actions:
            self.ale.act(Action.FIRE)
        self.frames = 0
        self.last = self.screen()  # what the latest observation was made of
        self.second_last = np.zeros_like(self.last)
        blank = np.zeros_like(self.shown(self.last))
        self.stack = deque([blank] * self.options.stack_num, maxlen=self.options.stack_num)
        return self.observation()

    def step(self, action: int) -> tuple[np.ndarray, int, bool, bool]:
        reward, lives = 0, self.ale.lives()
        for skip in range(self.options.frameskip):
            reward += self.ale.act(self.actions[action])
            self.frames += 1
            lost_life = self.options.episodic_life and 0 < self.ale.lives() < lives
            terminated = self.ale.game_over() or lost_life
            truncated = self.frames >= self.options.max_num_frames_per_episode
            if terminated or truncated:
                break  # the screen stays as it was: the ending itself is not shown
            if skip == self.options.frameskip - 2:
                self.second_last = self.screen()
            if skip == self.options.frameskip - 1:
                self.last = self.screen()
        return self.observation(), reward, terminated, truncated and not terminated

    def observation(self) -> np.ndarray:
        if self.options.maxpool:
            self.last = np.maximum(self.last, self.second_last)
        self.stack.append(self.shown(self.last))
        return np.concatenate(self.stack)

    def shown(self, screen: np.ndarray) -> np.ndarray:
        """[channels, height, width], each pixel the mean of the screen's area under it."""
        pixels = screen.reshape(*screen.shape[:2], -1)
        if pixels.shape[:2] == (self.options.img_height, self.options.img_width):
            return pixels.transpose(2, 0, 1)
        rows = area_weights(screen.shape[0], self.options.img_height)
        columns = area_weights(screen.shape[1], self.options.img_width)
        return np.stack([rows @ pixels[..., c] @ columns.T for c in range(pixels.shape[2])])


@cache
def area_weights(old: int, new: int) -> np.ndarray:
    """[new, old]: how much of each old pixel lies under each new one, rows adding up to 1."""
    weights = np.zeros((new, old))
    for i in range(new):
        start, end = i * old / new, (i + 1) * old / new
        for j in range(old):
            weights[i, j] = max(0.0, min(end, j + 1) - max(start, j))
    return weights / weights.sum(axis=1, keepdims=True)
