"""Atari games by name: which there are, which the Leap paper plays, published scores.

Names are ALE's ROM ids, in snake case.
"""

from __future__ import annotations


def _listed(names: str) -> tuple[str, ...]:
    return tuple(names.split())


CLASSIC_GAMES: tuple[str, ...] = _listed(
    """
    adventure air_raid alien amidar assault asterix asteroids atlantis bank_heist
    battle_zone beam_rider berzerk bowling boxing breakout carnival centipede
    chopper_command crazy_climber defender demon_attack double_dunk elevator_action enduro
    fishing_derby freeway frostbite gopher gravitar hero ice_hockey jamesbond journey_escape
    kangaroo krull kung_fu_master montezuma_revenge ms_pacman name_this_game phoenix pitfall
    pong pooyan private_eye qbert riverraid road_runner robotank seaquest skiing solaris
    space_invaders star_gunner tennis time_pilot tutankham up_n_down venture video_pinball
    wizard_of_wor yars_revenge zaxxon
    """
)
"""The 62 games that ALE has had since its first versions."""

LEAP_POOL: tuple[str, ...] = _listed(
    """
    air_raid amidar assault asterix atlantis beam_rider bowling breakout carnival
    crazy_climber demon_attack enduro freeway gopher ms_pacman name_this_game phoenix pong
    pooyan qbert skiing space_invaders time_pilot tutankham up_n_down video_pinball
    wizard_of_wor
    """
)
"""The classic games with at most 10 actions, from which the Leap paper draws its tasks.

Flennerhag et al. (2019), arXiv:1812.01054, appendix F. The two of LEAP_HELD_OUT are among them.
"""

LEAP_HELD_OUT: tuple[str, ...] = ("breakout", "space_invaders")
"""Never met in the paper's meta-training."""

LEAP_EVALUATION: tuple[str, ...] = (
    *LEAP_HELD_OUT,
    *("air_raid", "up_n_down", "wizard_of_wor"),  # met in meta-training
    *("alien", "gravitar", "krull", "kung_fu_master", "road_runner"),  # more than 10 actions
)
"""The games on which the paper compares initialisations."""

RANDOM_AND_HUMAN_SCORES: dict[str, tuple[float, float]] = {
    "alien": (227.8, 7127.7),
    "amidar": (5.8, 1719.5),
    "assault": (222.4, 742.0),
    "asterix": (210.0, 8503.3),
    "asteroids": (719.1, 47388.7),
    "atlantis": (12850.0, 29028.1),
    "bank_heist": (14.2, 753.1),
    "battle_zone": (2360.0, 37187.5),
    "beam_rider": (363.9, 16926.5),
    "berzerk": (123.7, 2630.4),
    "bowling": (23.1, 160.7),
    "boxing": (0.1, 12.1),
    "breakout": (1.7, 30.5),
    "centipede": (2090.9, 12017.0),
    "chopper_command": (811.0, 7387.8),
    "crazy_climber": (10780.5, 35829.4),
    "defender": (2874.5, 18688.9),
    "demon_attack": (152.1, 1971.0),
    "double_dunk": (-18.6, -16.4),
    "enduro": (0.0, 860.5),
    "fishing_derby": (-91.7, -38.7),
    "freeway": (0.0, 29.6),
    "frostbite": (65.2, 4334.7),
    "gopher": (257.6, 2412.5),
    "gravitar": (173.0, 3351.4),
    "hero": (1027.0, 30826.4),
    "ice_hockey": (-11.2, 0.9),
    "jamesbond": (29.0, 302.8),
    "kangaroo": (52.0, 3035.0),
    "krull": (1598.0, 2665.5),
    "kung_fu_master": (258.5, 22736.3),
    "montezuma_revenge": (0.0, 4753.3),
    "ms_pacman": (307.3, 6951.6),
    "name_this_game": (2292.3, 8049.0),
    "phoenix": (761.4, 7242.6),
    "pitfall": (-229.4, 6463.7),
    "pong": (-20.7, 14.6),
    "private_eye": (24.9, 69571.3),
    "qbert": (163.9, 13455.0),
    "riverraid": (1338.5, 17118.0),
    "road_runner": (11.5, 7845.0),
    "robotank": (2.2, 11.9),
    "seaquest": (68.4, 42054.7),
    "skiing": (-17098.1, -4336.9),
    "solaris": (1236.3, 12326.7),
    "space_invaders": (148.0, 1668.7),
    "star_gunner": (664.0, 10250.0),
    "surround": (-10.0, 6.5),
    "tennis": (-23.8, -8.3),
    "time_pilot": (3568.0, 5229.2),
    "tutankham": (11.4, 167.6),
    "up_n_down": (533.4, 11693.2),
    "venture": (0.0, 1187.5),
    "video_pinball": (16256.9, 17667.9),
    "wizard_of_wor": (563.5, 4756.5),
    "yars_revenge": (3092.9, 54576.9),
    "zaxxon": (32.5, 9173.3),
}
"""Mean scores of uniformly random play and of a professional games tester, both after up to 30
no-ops: Wang et al. (2016), arXiv:1511.06581, as listed in DeepMind's dqn_zoo (atari_data.py).
Normalising by them is due to Mnih et al. (2015), doi:10.1038/nature14236."""


def human_normalized(game: str, score: float) -> float | None:
    """Return 0 for random play and 1 for a human, linear between; None if none was published."""
    if game not in RANDOM_AND_HUMAN_SCORES:
        return None
    random, human = RANDOM_AND_HUMAN_SCORES[game]
    return (score - random) / (human - random)
