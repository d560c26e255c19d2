"""The page that shows the mails of the gateway."""

from bluesminds.dashboard.admin.mail import PREVIEW_POLICY
from tests.dashboard.site import DashboardSite


async def test_page_of_mails_shows_every_mail_and_its_html_in_a_sandbox(site: DashboardSite) -> None:
    async with site.browser_client("admin") as client:
        page = (await client.get("/dashboard/admin/mail")).text
        preview = await client.get("/dashboard/admin/mail/verify_email")
        missing = await client.get("/dashboard/admin/mail/none")
    assert "writing files to state_dir/outbox" in page
    assert page.count("<details>") > 15
    assert preview.headers["content-security-policy"] == PREVIEW_POLICY
    assert PREVIEW_POLICY.startswith("sandbox; default-src 'none';")
    assert "Confirm the address" in preview.text
    assert missing.status_code == 404
    async with site.browser_client("user") as client:
        assert (await client.get("/dashboard/admin/mail/verify_email")).status_code == 403


async def test_test_mail_is_sent_at_once(site: DashboardSite) -> None:
    async with site.browser_client("admin") as client:
        answer = await client.post("/api/admin/mail/test", json={"email": "ada@example.com"})
    assert answer.status_code == 204, answer.text
    outbox = site.gateway.services.state.path / "outbox"
    assert len(list(outbox.glob("*.eml"))) == 1
