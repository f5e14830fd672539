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
            "Réessayez quand il y a de la place.",
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


PAGE: Final[dict[str, dict[str, str]]] = {
    "en": {
        "title": "Change a picture",
        "lead": "Say what to change. It comes back in exactly the same size.",
        "language": "Language",
        "no_script": "This page needs JavaScript: please switch it on, then reload.",
        "drop": "Drop a picture here, paste one, or choose a file",
        "drop_touch": "Choose a picture",
        "kinds": "JPEG, PNG, WebP or GIF, up to {most} MB",
        "camera": "Camera",
        "other": "Replace",
        "prompt": "What shall change?",
        "prompt_hint": "e.g. make it a winter evening",
        "ideas": "Ideas",
        "idea_1": "Make it a winter evening",
        "idea_2": "Paint it as a watercolour",
        "idea_3": "Put a calm sea behind it",
        "keys": "Ctrl or Cmd and Enter generates",
        "generate": "Generate",
        "busy": "Generating…",
        "cancel": "Cancel",
        "before": "Before",
        "after": "After",
        "promise": "Your new picture appears here by itself",
        "progress": "Progress",
        "uploading": "Uploading the picture",
        "step_queued": "Queue",
        "step_generating": "Generation",
        "step_downloading": "Download",
        "step_resizing": "Resize",
        "step_storing": "Store",
        "usually": "usually 30–60 s",
        "late": "Longer than usual. You can leave: it is kept.",
        "same_size": "same size",
        "view": "Open in full size",
        "download": "Download",
        "again": "Try again",
        "pay_again": "Pay once more",
        "may_be_paid": "It may have been paid already. Trying again may cost credits once more.",
        "job": "Job",
        "live": "live",
        "reconnecting": "reconnecting",
        "offline": "offline",
        "sign_in_title": "Sign in first",
        "sign_in": "Open the login link that nanohook dev printed in your terminal.",
        "used_link_title": "This link no longer works",
        "used_link": "A login link is good for one hour, and once. Start nanohook dev again for a new one.",
        "unverified_title": "Confirm your e-mail address",
        "unverified": "Open the link in the mail that was sent to you, then come back.",
        "signed_in": "I am signed in",
        "terminal": "What the terminal shows",
        "no_picture": "Choose a picture first.",
        "no_prompt": "Say what shall change.",
        "too_large": "This picture has more than {most} MB. Choose a smaller one.",
        "not_a_picture": "This file is not a picture that can be used. Choose a JPEG, PNG, WebP or GIF.",
        "empty": "This file is empty. Choose another one.",
        "truncated": "This picture is not complete. Choose it again, or another one.",
        "too_many_pixels": "This picture has too many pixels. Choose a smaller one.",
        "no_network": "The service does not answer. Your picture and text are still here: try again.",
        "signed_out": "You are signed out. Sign in in another tab, then try again: all of this stays here.",
        "too_many": "That was a lot at once. Try again in {seconds} s.",
        "no_api_key": "There is no NanoBanana key yet. The operator sets NANOBANANA_API_KEY.",
        "no_public_url": "NanoBanana cannot reach this service. The operator sets NANOHOOK_PUBLIC_URL.",
        "disk_full": "There is no room for new pictures at the moment. Try again later.",
        "unavailable": "The service is busy. Your picture and text are still here: try again.",
        "gone": "This picture is no longer kept. Choose it again.",
        "deleted": "This picture was deleted.",
        "unknown": "Something went wrong on our side. Try again; if it stays, tell the operator: {id}",
    },
    "fr": {
        "title": "Modifier une image",
        "lead": "Dites ce qui doit changer. Elle revient exactement à la même taille.",
        "language": "Langue",
        "no_script": "Cette page a besoin de JavaScript : activez-le, puis rechargez.",
        "drop": "Déposez une image ici, collez-la, ou choisissez un fichier",
        "drop_touch": "Choisissez une image",
        "kinds": "JPEG, PNG, WebP ou GIF, jusqu'à {most} Mo",
        "camera": "Appareil photo",
        "other": "Remplacer",
        "prompt": "Que faut-il changer ?",
        "prompt_hint": "p. ex. un soir d'hiver",
        "ideas": "Idées",
        "idea_1": "Un soir d'hiver",
        "idea_2": "Peins-la à l'aquarelle",
        "idea_3": "Une mer calme derrière",
        "keys": "Ctrl ou Cmd et Entrée lancent la génération",
        "generate": "Générer",
        "busy": "Génération...",
        "cancel": "Annuler",
        "before": "Avant",
        "after": "Après",
        "promise": "Votre nouvelle image apparaît ici d'elle-même",
        "progress": "Progression",
        "uploading": "Envoi de l'image",
        "step_queued": "File d'attente",
        "step_generating": "Génération",
        "step_downloading": "Téléchargement",
        "step_resizing": "Redimensionnement",
        "step_storing": "Enregistrement",
        "usually": "en général 30 à 60 s",
        "late": "Plus long que d'habitude. Vous pouvez partir : tout est gardé.",
        "same_size": "même taille",
        "view": "Ouvrir en taille réelle",
        "download": "Télécharger",
        "again": "Réessayer",
        "pay_again": "Payer à nouveau",
        "may_be_paid": "Elle a pu être payée déjà. Réessayer peut coûter des crédits une fois de plus.",
        "job": "Tâche",
        "live": "en direct",
        "reconnecting": "reconnexion",
        "offline": "hors ligne",
        "sign_in_title": "Connectez-vous d'abord",
        "sign_in": "Ouvrez le lien de connexion que nanohook dev a affiché dans votre terminal.",
        "used_link_title": "Ce lien ne fonctionne plus",
        "used_link": "Un lien de connexion vaut une heure, et une fois. Relancez nanohook dev pour en avoir un.",
        "unverified_title": "Confirmez votre adresse e-mail",
        "unverified": "Ouvrez le lien du message qui vous a été envoyé, puis revenez.",
        "signed_in": "Je suis connecté",
        "terminal": "Ce que montre le terminal",
        "no_picture": "Choisissez d'abord une image.",
        "no_prompt": "Dites ce qui doit changer.",
        "too_large": "Cette image dépasse {most} Mo. Choisissez-en une plus petite.",
        "not_a_picture": "Ce fichier n'est pas une image utilisable. Choisissez un JPEG, PNG, WebP ou GIF.",
        "empty": "Ce fichier est vide. Choisissez-en un autre.",
        "truncated": "Cette image est incomplète. Choisissez-la à nouveau, ou une autre.",
        "too_many_pixels": "Cette image a trop de pixels. Choisissez-en une plus petite.",
        "no_network": "Le service ne répond pas. Image et texte sont toujours là : réessayez.",
        "signed_out": "Vous êtes déconnecté. Connectez-vous dans un autre onglet et réessayez : tout reste ici.",
        "too_many": "C'était beaucoup d'un coup. Réessayez dans {seconds} s.",
        "no_api_key": "Il n'y a pas encore de clé NanoBanana. L'exploitant règle NANOBANANA_API_KEY.",
        "no_public_url": "NanoBanana ne peut pas joindre ce service. L'exploitant règle NANOHOOK_PUBLIC_URL.",
        "disk_full": "Il n'y a plus de place pour de nouvelles images. Réessayez plus tard.",
        "unavailable": "Le service est occupé. Image et texte sont toujours là : réessayez.",
        "gone": "Cette image n'est plus gardée. Choisissez-la à nouveau.",
        "deleted": "Cette image a été supprimée.",
        "unknown": "Un problème est survenu chez nous. Réessayez ; sinon dites à l'exploitant : {id}",
    },
}
"""The page's own texts by language; ``{most}``, ``{seconds}`` and ``{id}`` are filled in where they are shown."""
