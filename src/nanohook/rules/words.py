"""Sentences for people, English and French: what a job is doing, what went wrong, what to do about it."""

from dataclasses import dataclass
from typing import Final

from nanohook.rules.status import Stage

LANGUAGES: Final = ("en", "fr")

STAGES: Final[dict[Stage, tuple[str, str]]] = {
    Stage.UPLOADED: ("Picture uploaded", "Image téléversée"),
    Stage.QUEUED: ("Waiting for its turn", "En attente de son tour"),
    Stage.SUBMITTING: ("Sending to NanoBanana", "Envoi à NanoBanana"),
    Stage.GENERATING: ("Generating…", "Génération..."),
    Stage.DOWNLOADING: ("Fetching the result", "Récupération du résultat"),
    Stage.RESIZING: ("Resizing to the original's size", "Redimensionnement à la taille de l'original"),
    Stage.STORING: ("Storing the picture", "Enregistrement de l'image"),
    Stage.COMPLETED: ("The picture is ready", "L'image est prête"),
    Stage.FAILED: ("Generation failed", "La génération a échoué"),
    Stage.CANCELED: ("Generation canceled", "Génération annulée"),
}

HELD: Final[dict[str, tuple[str, str]]] = {
    "paused": ("Waiting: the operator has paused the work", "En attente : l'exploitant a suspendu le travail"),
    "no_credit": (
        "Waiting: the NanoBanana account has no credit left",
        "En attente : le compte NanoBanana n'a plus de crédit",
    ),
    "bad_key": (
        "Waiting: NanoBanana does not accept the key at the moment",
        "En attente : NanoBanana n'accepte pas la clé en ce moment",
    ),
}
"""Why everybody's jobs wait, in place of ``STAGES``' sentence for one that waits for its turn."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sentence:
    """What happened and what to do, in each of ``LANGUAGES``."""

    message: tuple[str, str]
    advice: tuple[str, str]
    retryable: bool
    """Trying the same again can help."""


FAULTS: Final[dict[str, Sentence]] = {
    "content_policy": Sentence(
        message=("NanoBanana refused the prompt or picture", "NanoBanana a refusé le texte ou l'image"),
        advice=("Change the prompt or the picture.", "Modifiez le texte ou l'image."),
        retryable=False,
    ),
    "no_credit": Sentence(
        message=("The NanoBanana account has no credit left", "Le compte NanoBanana n'a plus de crédit"),
        advice=("Top up the account, then retry.", "Rechargez le compte, puis réessayez."),
        retryable=True,
    ),
    "bad_key": Sentence(
        message=("NanoBanana does not accept the key", "NanoBanana n'accepte pas la clé"),
        advice=(
            "Check the key and its list of addresses, then retry.",
            "Vérifiez la clé et ses adresses, puis réessayez.",
        ),
        retryable=True,
    ),
    "upstream_rejected": Sentence(
        message=("NanoBanana did not accept the request", "NanoBanana n'a pas accepté la demande"),
        advice=("Check prompt and options.", "Vérifiez le texte et les options."),
        retryable=False,
    ),
    "upstream_failed": Sentence(
        message=("NanoBanana could not make the picture", "NanoBanana n'a pas pu créer l'image"),
        advice=("Retry: it often works the second time.", "Réessayez : la seconde fois réussit souvent."),
        retryable=True,
    ),
    "download_failed": Sentence(
        message=("The finished picture could not be fetched", "L'image créée n'a pas pu être récupérée"),
        advice=(
            "Retry: the picture is asked for again without paying.",
            "Réessayez : l'image est redemandée sans payer.",
        ),
        retryable=True,
    ),
    "not_an_image": Sentence(
        message=("What NanoBanana delivered is not a picture", "NanoBanana n'a pas livré une image"),
        advice=("Retry.", "Réessayez."),
        retryable=True,
    ),
    "too_large": Sentence(
        message=("The delivered picture is too large", "L'image livrée est trop grande"),
        advice=("Ask for a smaller resolution.", "Demandez une résolution plus petite."),
        retryable=False,
    ),
    "storage_failed": Sentence(
        message=("The picture could not be stored", "L'image n'a pas pu être enregistrée"),
        advice=(
            "Retry once there is space: the picture is kept upstream.",
            "Réessayez quand il y a de la place : NanoBanana garde l'image.",
        ),
        retryable=True,
    ),
    "deadline": Sentence(
        message=("NanoBanana did not finish in time", "NanoBanana n'a pas terminé à temps"),
        advice=(
            "Retry: a result made meanwhile is taken without paying.",
            "Réessayez : un résultat créé entre-temps est repris sans payer.",
        ),
        retryable=True,
    ),
    "unknown_outcome": Sentence(
        message=(
            "It is not known whether NanoBanana took the request",
            "On ignore si NanoBanana a pris la demande",
        ),
        advice=(
            "It may have been paid: retry with buy_again to pay once more.",
            "Elle a pu être payée : réessayez avec buy_again pour payer encore.",
        ),
        retryable=True,
    ),
    "canceled": Sentence(
        message=STAGES[Stage.CANCELED],
        advice=("Retry to start again.", "Réessayez pour recommencer."),
        retryable=True,
    ),
    "internal": Sentence(
        message=("Something went wrong on our side", "Un problème est survenu chez nous"),
        advice=(
            "Retry; if it stays, tell the operator the job's id.",
            "Réessayez ; sinon donnez l'identifiant à l'exploitant.",
        ),
        retryable=True,
    ),
}


def language_of(accept_language: str | None) -> str:
    """Choose ``en`` or ``fr`` by an ``Accept-Language`` header: the first of the two that it names."""
    for part in (accept_language or "").lower().split(",")[:20]:
        name = part.split(";")[0].strip().split("-")[0]
        if name in LANGUAGES:
            return name
    return LANGUAGES[0]


def in_language(texts: tuple[str, str], language: str) -> str:
    """Pick the text of *language*; English if it is none of ``LANGUAGES``."""
    return texts[LANGUAGES.index(language)] if language in LANGUAGES else texts[0]
