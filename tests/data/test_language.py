from __future__ import annotations

import pytest

from bigbatch.data.language import count_words, estimate_tokens, guess_language


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("en", "I can't believe that the flight was late and nobody told us what to do with the bags."),
        (
            "de",
            "Das Hotel war sehr schön und die Zimmer sind sauber, aber das Frühstück ist nicht zu empfehlen.",
        ),
        ("fr", "Le film est trop long et les acteurs ne sont pas bons, mais la musique est très belle."),
        ("es", "La comida es muy buena y el servicio no tarda, pero los precios son altos para una cena."),
        ("zh", "这家酒店的服务非常好，房间很干净，但是早餐一般。"),
        ("unknown", "この映画はとても面白かったです。また見たいと思います。"),
        ("unknown", "Отель хороший, но завтрак был очень плохой."),
        ("unknown", "lorem ipsum dolor sit amet consectetur adipiscing elit"),
        ("unknown", "12 34 ... !!"),
    ],
)
def test_languages(language: str, text: str):
    assert guess_language([text]) == language


def test_words_and_tokens():
    assert count_words("two words") == 2
    assert count_words("") == 0
    assert count_words("这家酒店 ok good") == pytest.approx(4 / 1.5 + 2)
    assert estimate_tokens("two words") == pytest.approx(4.6)
    assert estimate_tokens("这家酒店") == pytest.approx(6)
