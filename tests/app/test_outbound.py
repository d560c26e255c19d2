"""The list of hosts that a configuration allows."""

from pathlib import Path

from bluesminds.app.outbound import outbound
from bluesminds.config import load

EVERYTHING = """
state_dir = "state"
[storage]
url = "postgresql://gate:secret@db.example.com/gate"
[mail]
host = "smtp.example.com"
sender = "a@example.com"
[tracing]
endpoint = "http://collector.example.com:4318/v1/traces"
[log]
sentry_dsn = "https://abc@errors.example.com/5"
[vendor_keys]
enabled = false
[webhooks]
enabled = true
[[identity.providers]]
name = "staff"
issuer = "https://login.example.com/realm"
client_id = "x"
client_secret = "0123456789abcdef"
[[identity.providers]]
name = "github"
kind = "github"
client_id = "x"
client_secret = "0123456789abcdef"
[[identity.providers]]
name = "privy"
kind = "privy"
client_id = "x"
[[servers]]
name = "cloud"
vendor = "azure"
url = "https://x.openai.azure.com"
api_key = "entra:tenant:client:secret"
models = ["gpt"]
[[servers]]
name = "one"
url = "http://127.0.0.1:9/v1"
[[servers]]
name = "two"
url = "http://127.0.0.1:10/v1"
mode = "off"
"""


def test_outbound_names_every_host_of_the_configuration(tmp_path: Path) -> None:
    path = tmp_path / "gateway.toml"
    path.write_text(EVERYTHING)
    path.chmod(0o600)
    assert list(outbound(load(path, {}, {}).settings)) == [
        "x.openai.azure.com:443 (server cloud)",
        "127.0.0.1:9 (server one)",
        "login.microsoftonline.com:443 (tokens for server cloud)",
        "servers in the database, if any",
        "smtp.example.com:587 (mail)",
        "collector.example.com:4318 (tracing)",
        "errors.example.com:443 (error reports)",
        "login.example.com:443 (sign-in staff)",
        "github.com:443 (sign-in github)",
        "api.github.com:443 (sign-in github)",
        "api.privy.io:443 (sign-in privy)",
        "the URLs of webhooks",
        "the host in storage.url (PostgreSQL)",
    ]
