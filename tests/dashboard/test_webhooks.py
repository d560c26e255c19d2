"""The pages of webhooks."""

from typing import Any

import pytest

from tests.dashboard.site import DashboardSite
from tests.dashboard.test_pages import check_page

HOSTILE = "<script>alert(1)</script>"
URL = "https://hooks.example.com/in"


@pytest.mark.parametrize(("name", "path"), [("user", "/webhooks"), ("admin", "/admin/webhooks")])
async def test_webhook_is_created_tested_shown_and_deleted(site: DashboardSite, name: str, path: str) -> None:
    api = f"/api{path}"
    async with site.browser_client(name) as client:
        check_page(await client.get(f"/dashboard{path}"))
        made = await client.post(api, json={"url": URL, "events": ["key.*"], "description": HOSTILE})
        assert made.status_code == 201, made.text
        webhook, secret = made.json()["webhook"]["id"], made.json()["secret"]
        listed = await client.get(f"/dashboard{path}")
        check_page(listed)
        assert URL in listed.text and HOSTILE not in listed.text and secret not in listed.text
        sent = await client.post(f"{api}/{webhook}/test", json={})
        delivery = sent.json()["id"]
        shown = await client.get(f"/dashboard{path}/{webhook}?delivery={delivery}")
        check_page(shown)
        assert "webhook.test" in shown.text and HOSTILE not in shown.text and secret not in shown.text
        disabled = await client.patch(f"{api}/{webhook}", json={"enabled": False})
        assert disabled.json()["enabled"] is False
        assert "Enable" in (await client.get(f"/dashboard{path}/{webhook}")).text
        report: dict[str, Any] = (await client.get(f"{api}/{webhook}/deliveries/{delivery}")).json()
        assert '"type":"webhook.test"' in report["body"]
        listing = (await client.get(f"{api}/{webhook}/deliveries?limit=1")).json()
        assert [row["id"] for row in listing["data"]] == [delivery]
        again = await client.post(f"{api}/{webhook}/deliveries/{delivery}/resend")
        assert (again.status_code, again.json()["error"]["code"]) == (409, "webhook_disabled")
        rotated = await client.post(f"{api}/{webhook}/rotate", json={"overlap_seconds": 60})
        assert rotated.json()["secret"] != secret and rotated.json()["webhook"]["previous_until"]
        assert (await client.delete(f"{api}/{webhook}")).status_code == 204
        assert (await client.get(f"/dashboard{path}/{webhook}")).status_code == 404
    assert site.gateway.events("control_failed") == []


async def test_webhook_of_another_account_is_not_found(site: DashboardSite) -> None:
    async with site.browser_client("user") as client:
        made = await client.post("/api/webhooks", json={"url": URL})
    webhook = made.json()["webhook"]["id"]
    async with site.browser_client("admin") as client:
        for path in (f"/dashboard/webhooks/{webhook}", f"/dashboard/admin/webhooks/{webhook}"):
            assert (await client.get(path)).status_code == 404
        assert (await client.get(f"/api/webhooks/{webhook}")).status_code == 404
