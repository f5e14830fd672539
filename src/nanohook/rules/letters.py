"""What is written to people by mail, English and French."""

from typing import Final

from nanohook.rules import words

_LETTERS: Final[dict[str, tuple[tuple[str, str], tuple[str, str]]]] = {
    "verify": (
        ("Confirm your e-mail address", "Confirmez votre adresse e-mail"),
        (
            (
                "Welcome to nanohook.\n\nOpen this link within 24 hours to confirm your address:\n\n{link}\n\n"
                "If you did not ask for an account, ignore this mail: without the link nothing happens.\n"
            ),
            (
                "Bienvenue sur nanohook.\n\nOuvrez ce lien dans les 24 heures pour confirmer votre adresse :\n\n"
                "{link}\n\n"
                "Si vous n'avez pas demandé de compte, ignorez ce message : sans le lien, rien ne se passe.\n"
            ),
        ),
    ),
    "reset": (
        ("Choose a new password", "Choisissez un nouveau mot de passe"),
        (
            (
                "Open this link within one hour to choose a new password:\n\n{link}\n\n"
                "If you did not ask for it, ignore this mail: your password stays as it is.\n"
            ),
            (
                "Ouvrez ce lien dans l'heure pour choisir un nouveau mot de passe :\n\n{link}\n\n"
                "Si vous ne l'avez pas demandé, ignorez ce message : votre mot de passe reste le même.\n"
            ),
        ),
    ),
    "known": (
        ("You already have an account", "Vous avez déjà un compte"),
        (
            (
                "Somebody, perhaps you, asked for an account with this address. It has one already:\n\n{link}\n\n"
                "If you forgot your password, you can choose a new one there.\n"
            ),
            (
                "Quelqu'un, peut-être vous, a demandé un compte avec cette adresse. Elle en a déjà un :\n\n"
                "{link}\n\n"
                "Si vous avez oublié votre mot de passe, vous pouvez en choisir un nouveau là-bas.\n"
            ),
        ),
    ),
}


def letter(kind: str, language: str, *, link: str) -> tuple[str, str]:
    """
    Write a mail.

    Args:
        kind: ``verify``, ``reset``, or ``known`` for who registers an address that has an account.

    Returns:
        Subject and text.
    """
    subject, text = _LETTERS[kind]
    return words.in_language(subject, language), words.in_language(text, language).format(link=link)
