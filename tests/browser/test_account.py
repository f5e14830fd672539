"""The doors in a real browser: from a stranger to a person who is logged in, and out again."""

import re

import pytest
from playwright.async_api import expect

from nanohook.stores import accounts
from nanohook.web import credentials
from tests import browsing, rig
from tests.browsing import Visit, visiting

pytestmark = pytest.mark.asyncio(loop_scope="module")

ADA = "ada@example.org"
PASSWORD = "a kite over the harbour"
OTHER = "a kite over the mountains"
PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}


@pytest.fixture(name="mails")
def _mails(caplog):
    """Give the links that were mailed so far, oldest first: without a relay they stand in the log."""
    return lambda: [each.link for each in caplog.records if each.message == "mail.not_configured" and each.link]


def strangers(browser, tmp_path, **chosen):
    """Open a window on a service that nobody has an account of."""
    return visiting(browser, tmp_path, sign_up=False, **chosen)


async def fill(visit: Visit, *, submit: str, **fields: str) -> None:
    for name, text in fields.items():
        await visit.page.locator(f"#{name}").fill(text)
    await visit.page.get_by_role("button", name=submit).click()


async def log_in(visit: Visit, path: str = "/login", *, password: str = PASSWORD) -> None:
    await visit.page.goto(visit.service.base + path)
    await fill(visit, email=ADA, password=password, submit="Log in")


async def is_verified(visit: Visit) -> bool:
    found = await visit.service.parts.database.read(lambda tx: accounts.account(tx, ADA))
    assert found is not None
    return found.person.is_verified


def title(visit: Visit):
    return expect(visit.page.get_by_role("heading", level=1))


FRENCH = {
    "register": "Créer le compte",
    "sent": "Consultez vos e-mails",
    "confirm": "Confirmer mon adresse",
    "confirmed": "Votre adresse est confirmée",
    "log_in": "Se connecter",
    "credits": "1 200 crédits",
    "cost": "4 crédits",
}
ENGLISH = {
    "register": "Create the account",
    "sent": "Check your mail",
    "confirm": "Confirm my address",
    "confirmed": "Your address is confirmed",
    "log_in": "Log in",
    "credits": "1,200 credits",
    "cost": "4 credits",
}


@pytest.mark.parametrize(("locale", "texts"), [("en-GB", ENGLISH), ("fr-FR", FRENCH)], ids=["en", "fr"])
async def test_a_stranger_registers_confirms_the_address_and_comes_in(browser, tmp_path, mails, locale, texts):
    window = {"locale": locale}
    async with strangers(browser, tmp_path, window=window, registration="open", free_credits=1200) as visit:
        page = visit.page
        await page.goto(f"{visit.service.base}/register")
        await fill(visit, email=ADA, password=PASSWORD, submit=texts["register"])
        await title(visit).to_have_text(texts["sent"])
        await expect(page.locator("#sent")).to_be_focused()
        await expect(page.locator("#sent")).to_contain_text(ADA)

        [link] = mails()
        await page.goto(link)
        await expect(page.get_by_role("button", name=texts["confirm"])).to_be_enabled()
        # Opening a link proves nothing: programs that look into mails do it, too.
        assert not await is_verified(visit)
        await page.get_by_role("button", name=texts["confirm"]).click()
        await title(visit).to_have_text(texts["confirmed"])
        assert await is_verified(visit)
        await expect(page).to_have_url(f"{visit.service.base}/verify-email")

        await page.get_by_role("link", name=texts["log_in"]).click()
        await fill(visit, password=PASSWORD, submit=texts["log_in"])
        await expect(page).to_have_url(f"{visit.service.base}/generate-images")
        await expect(page.locator(".account")).to_contain_text(ADA)
        await expect(page.locator(".account [data-credits]")).to_have_text(texts["credits"])
        await expect(page.locator("#cost")).to_contain_text(texts["cost"])
        assert visit.complaints == []
        assert visit.hosts == {visit.service.base.removeprefix("http://")}


async def test_what_is_wrong_is_said_beside_its_field_and_the_focus_goes_there(browser, tmp_path):
    async with strangers(browser, tmp_path, registration="open") as visit:
        page = visit.page
        await page.goto(f"{visit.service.base}/register")
        await fill(visit, submit="Create the account", email="nobody", password="short")
        email, password = page.locator("#email"), page.locator("#password")
        await expect(email).to_be_focused()
        await expect(email).to_have_accessible_description(
            "Enter a whole e-mail address, such as ada@example.org."
        )
        await expect(password).to_have_attribute("aria-invalid", "true")
        await expect(page.locator("#password-problem")).to_have_text("Choose a password of at least 8 characters.")
        assert visit.complaints == []
        # What only the server finds.
        await fill(visit, submit="Create the account", email="ada@example..org", password=PASSWORD)
        await expect(page.get_by_role("alert").filter(has_text="whole e-mail address")).to_be_visible()
        await expect(email).to_be_focused()
        await expect(password).not_to_have_attribute("aria-invalid", "true")

        await page.locator("#email").fill(ADA)
        await expect(page.locator("#email-problem")).to_have_text("")
        await page.get_by_role("button", name="Show the password").click()
        await expect(password).to_have_attribute("type", "text")


async def test_a_wrong_password_is_told_and_the_right_one_leads_where_one_wanted_to_go(browser, tmp_path):
    async with strangers(browser, tmp_path) as visit:
        await rig.make_account(visit.service, ADA, password=PASSWORD)
        page = visit.page
        answer = await page.goto(f"{visit.service.base}/generate-images#job=none")
        assert answer is not None
        assert answer.status == 401
        await fill(visit, email=ADA, password=OTHER, submit="Log in")
        await expect(page.get_by_role("alert").filter(has_text="do not fit")).to_be_visible()
        await expect(page.locator("#password")).to_be_focused()
        await fill(visit, password=PASSWORD, submit="Log in")
        # The address still names the picture: the studio looked for it.
        await expect(page.get_by_role("alert").filter(has_text="no longer kept")).to_be_visible()

        await page.goto(f"{visit.service.base}/login?next=/api/auth/me")
        await expect(page).to_have_url(f"{visit.service.base}/api/auth/me")


NOT_KEPT = {"en-GB": "did not keep the login", "fr-FR": "n'a pas gardé la connexion"}


@pytest.mark.parametrize("locale", NOT_KEPT)
async def test_over_http_beside_a_login_over_https_of_the_same_host_one_is_told_why_it_fails(tmp_path, locale):
    # Of a name: what this machine calls itself is as good as https to a browser.
    async with (
        browsing.launched("--host-resolver-rules=MAP hook.test 127.0.0.1") as browser,
        strangers(browser, tmp_path, window={"locale": locale}) as visit,
    ):
        await rig.make_account(visit.service, ADA, password=PASSWORD)
        name = credentials.session_cookie(visit.service.parts)
        kept = {"name": name, "value": "of https", "domain": "hook.test", "path": "/", "secure": True}
        await visit.page.context.add_cookies([kept])
        port = visit.service.base.rpartition(":")[2]
        await visit.page.goto(f"http://hook.test:{port}/login")
        texts = FRENCH if locale == "fr-FR" else ENGLISH
        await fill(visit, email=ADA, password=PASSWORD, submit=texts["log_in"])
        await expect(visit.page.get_by_role("alert").filter(has_text=NOT_KEPT[locale])).to_be_visible()
        assert [each["value"] for each in await visit.page.context.cookies()] == ["of https"]

        await visit.page.context.clear_cookies()
        await fill(visit, password=PASSWORD, submit=texts["log_in"])
        await expect(visit.page).to_have_url(f"http://hook.test:{port}/generate-images")


async def test_a_browser_that_keeps_no_cookies_says_so(browser, tmp_path):
    async with strangers(browser, tmp_path) as visit:
        await rig.make_account(visit.service, ADA, password=PASSWORD)

        async def without_cookie(route):
            answer = await route.fetch()
            await visit.page.context.clear_cookies()
            await route.fulfill(status=answer.status, body=await answer.body())

        await visit.page.route("**/api/auth/login", without_cookie)
        await log_in(visit)
        await expect(visit.page.get_by_role("alert").filter(has_text="did not keep the login")).to_be_visible()


@pytest.mark.parametrize(
    "wanted",
    [
        "//evil.example",
        "/\\evil.example",
        "https://evil.example",
        "/\t/evil.example",
        "/\n\\evil.example",
        "evil",
        "",
    ],
)
async def test_nobody_is_led_to_another_host(tmp_path, wanted):
    async with rig.running(tmp_path) as service:
        key = service.client.headers.pop("authorization")
        asked = await service.client.get("/login", params={"next": wanted})
        assert asked.status_code == 200
        assert 'data-then="/generate-images"' in asked.text
        known = await service.client.get("/login", params={"next": wanted}, headers={"Authorization": key})
        assert known.headers["location"] == "/generate-images"


async def test_a_forgotten_password_is_replaced_by_the_link_of_a_mail(browser, tmp_path, mails):
    async with strangers(browser, tmp_path) as visit:
        page = visit.page
        await rig.make_account(visit.service, ADA, password=PASSWORD)
        await page.goto(f"{visit.service.base}/login")
        await page.get_by_role("link", name="Forgot your password?").click()
        await fill(visit, email="nobody@example.org", submit="Send the link")
        await expect(page.get_by_text("If this address has an account, a mail is on its way.")).to_be_visible()
        assert mails() == []
        await page.reload()
        await fill(visit, email=ADA, submit="Send the link")
        await expect(page.get_by_text("If this address has an account, a mail is on its way.")).to_be_visible()

        [link] = mails()
        await page.goto(link)
        await fill(visit, new_password=OTHER, submit="Set the new password")
        await title(visit).to_have_text("Your new password is set")
        await page.get_by_role("link", name="Log in").click()
        await fill(visit, password=OTHER, submit="Log in")
        await expect(page).to_have_url(f"{visit.service.base}/generate-images")
        assert visit.complaints == []

        await page.goto(link)
        await fill(visit, new_password=PASSWORD, submit="Set the new password")
        await title(visit).to_have_text("This link no longer works")
        await page.get_by_role("link", name="Ask for a new link").click()
        await expect(page).to_have_url(f"{visit.service.base}/generate-images")


async def test_a_link_that_was_used_says_so_and_what_to_do(browser, tmp_path, mails):
    async with strangers(browser, tmp_path, registration="open") as visit:
        page = visit.page
        await visit.service.client.post("/api/auth/register", json={"email": ADA, "password": PASSWORD})
        [link] = mails()
        for heading in ("Your address is confirmed", "This link no longer works"):
            await page.goto(link)
            await page.get_by_role("button", name="Confirm my address").click()
            await title(visit).to_have_text(heading)
        await page.get_by_role("link", name="Log in").click()
        await fill(visit, email=ADA, password=PASSWORD, submit="Log in")
        await expect(page).to_have_url(f"{visit.service.base}/generate-images")
        await page.goto(link)
        await page.get_by_role("button", name="Confirm my address").click()
        await expect(page.get_by_text("Your address is confirmed already")).to_be_visible()


async def test_whoever_is_not_confirmed_yet_gets_another_link_or_logs_out(browser, tmp_path, mails):
    async with strangers(browser, tmp_path, registration="open") as visit:
        page = visit.page
        await visit.service.client.post("/api/auth/register", json={"email": ADA, "password": PASSWORD})
        await log_in(visit, "/generate-images")
        await title(visit).to_have_text("Confirm your address")
        await expect(page.locator("#door")).to_contain_text(ADA)
        await page.get_by_role("button", name="Send a new link").click()
        await title(visit).to_have_text("Check your mail")
        assert len(mails()) == 2
        await page.get_by_role("button", name="Log out").click()
        await expect(page).to_have_url(f"{visit.service.base}/login")
        assert await page.evaluate("sessionStorage.length") == 0

        await log_in(visit)
        await title(visit).to_have_text("Confirm your address")
        await page.goto(mails()[-1])
        await page.get_by_role("button", name="Confirm my address").click()
        await page.get_by_role("link", name="Go on").click()
        await expect(page.locator("#generate")).to_be_enabled()


async def test_after_a_second_registration_who_reads_the_mail_chooses_the_password(browser, tmp_path, mails):
    async with strangers(browser, tmp_path, registration="open") as visit:
        page = visit.page
        for password in (PASSWORD, OTHER):
            await visit.service.client.post("/api/auth/register", json={"email": ADA, "password": password})
        first, newest = mails()
        await page.goto(first)
        await page.get_by_role("button", name="Confirm my address").click()
        await title(visit).to_have_text("This link no longer works")
        await page.goto(newest)
        await fill(visit, new_password="a third one, chosen here", submit="Set the new password")
        await title(visit).to_have_text("Your new password is set")
        assert await is_verified(visit)


@pytest.mark.parametrize(
    ("locale", "shown", "words"),
    [("en-GB", "1 credit", "You have too few credits."), ("fr-FR", "1 crédit", "pas assez de crédits")],
)
async def test_credits_follow_what_is_spent_and_too_few_are_told_in_words(browser, tmp_path, locale, shown, words):
    async with strangers(browser, tmp_path, window={"locale": locale}) as visit:
        await rig.make_account(visit.service, ADA, password=PASSWORD, credits=5)
        await visit.sign_in()
        page, credits = visit.page, visit.page.locator(".account [data-credits]")
        await expect(credits).to_have_text(re.compile("^5 "))
        await visit.choose(rig.picture())
        await page.locator("#prompt").fill("a kite")
        await page.locator("#generate").click()
        await visit.state("done")
        await expect(credits).to_have_text(shown)
        assert visit.complaints == []

        await page.locator("#prompt").fill("another kite")
        await page.locator("#generate").click()
        await expect(page.locator("#notice")).to_contain_text(words)
        await expect(page.locator("#prompt")).to_have_value("another kite")


async def test_whoever_logs_out_leaves_nothing_behind(browser, tmp_path):
    async with strangers(browser, tmp_path) as visit:
        await rig.make_account(visit.service, ADA, password=PASSWORD)
        await log_in(visit)
        page = visit.page
        await page.locator("#prompt").fill("a secret kite")
        await page.locator(".account").click()
        await expect(page.locator("#account")).to_contain_text(ADA)
        await page.keyboard.press("Escape")
        await expect(page.locator("#account")).to_be_hidden()
        await page.locator(".account").click()
        await page.get_by_role("button", name="Log out").click()
        await expect(page).to_have_url(f"{visit.service.base}/login")
        assert visit.complaints == []
        assert await page.evaluate("sessionStorage.length") == 0
        answer = await page.goto(f"{visit.service.base}/generate-images")
        assert answer is not None
        assert answer.status == 401


async def test_too_many_tries_are_told_in_words(browser, tmp_path):
    async with strangers(browser, tmp_path) as visit:
        await visit.page.goto(f"{visit.service.base}/login")
        origin, asked = {"Origin": visit.service.base}, {"email": ADA, "password": "not this one"}
        for _ in range(11):
            await visit.service.client.post("/api/auth/login", json=asked, headers=origin)
        await fill(visit, email=ADA, password=PASSWORD, submit="Log in")
        alert = visit.page.get_by_role("alert").filter(has_text="That was a lot at once.")
        await expect(alert).to_have_text(re.compile(r"Try again in \d+ s\.$"))
        await visit.page.context.set_offline(True)
        await visit.page.get_by_role("button", name="Log in").click()
        await expect(visit.page.get_by_role("alert").filter(has_text="does not answer")).to_be_visible()
        await expect(visit.page.locator("#password")).to_have_value(PASSWORD)


async def test_where_registration_is_closed_nobody_is_invited(browser, tmp_path):
    async with strangers(browser, tmp_path) as visit:
        answer = await visit.page.goto(f"{visit.service.base}/register")
        assert answer is not None
        assert answer.status == 403
        await title(visit).to_have_text("Registration is closed")
        await visit.page.get_by_role("link", name="Log in").click()
        await title(visit).to_have_text("Log in")
        await expect(visit.page.get_by_role("link", name="Create an account")).to_have_count(0)


DOORS = [
    "/login?next=/generate-images",
    "/login?forgot=1",
    "/login?reset=abc",
    "/register",
    "/verify-email?token=abc",
    "/verify-email",
]


async def test_every_door_fits_a_phone_and_keeps_its_address_in_the_other_language(browser, tmp_path):
    async with strangers(browser, tmp_path, window={"locale": "fr", **PHONE}, registration="open") as visit:
        page = visit.page
        for path in DOORS:
            await page.goto(visit.service.base + path)
            french = await page.get_by_role("heading", level=1).inner_text()
            await expect(page.locator("[type=submit][disabled]")).to_have_count(0)
            assert await page.evaluate("() => [document.documentElement.scrollWidth, innerWidth]") == [390, 390]
            assert await page.evaluate(_TOO_SMALL) == [], path
            assert await page.evaluate(_UNLABELLED) == [], path
            await page.get_by_role("link", name="English").click()
            await title(visit).not_to_have_text(french)
            address = visit.service.base + path.replace("=/", "=%2F")
            await expect(page).to_have_url(address)
            await page.get_by_role("link", name="Français").click()
            await title(visit).to_have_text(french)
        assert visit.complaints == []


_TOO_SMALL = """() => [...document.querySelectorAll("a, button, input")]
  .filter((each) => each.checkVisibility() && each.type !== "hidden")
  .map((each) => [each.id || each.textContent.trim(), each.getBoundingClientRect()])
  .filter(([, box]) => box.width < 44 || box.height < 44).map(([name]) => name)"""
_UNLABELLED = """() => [...document.querySelectorAll("input:not([type=hidden])")]
  .filter((each) => !each.labels.length || parseFloat(getComputedStyle(each).fontSize) < 16)
  .map((each) => each.id)"""
