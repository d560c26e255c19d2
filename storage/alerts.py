"""Rules of alerts that administrators made, and the states of all rules, as JSON that the caller defines."""

from collections.abc import Sequence
from dataclasses import dataclass

from storage.base import Connection


@dataclass(frozen=True, slots=True)
class AlertRuleRow:
    name: str
    definition: str
    created_at: int


async def insert_alert_rule(connection: Connection, row: AlertRuleRow) -> None:
    """Raises IntegrityError if there is a rule with this name."""
    await connection.many(
        "INSERT INTO alert_rules (name, definition, created_at) VALUES (:name, :definition, :created_at)",
        [row],
    )


async def update_alert_rule(connection: Connection, name: str, definition: str) -> bool:
    """False: there is no rule with this name."""
    changed = await connection.execute(
        "UPDATE alert_rules SET definition = :definition WHERE name = :name", name=name, definition=definition
    )
    return changed == 1


async def select_alert_rules(connection: Connection) -> Sequence[AlertRuleRow]:
    """By name."""
    rows = await connection.all("SELECT name, definition, created_at FROM alert_rules ORDER BY name")
    return [AlertRuleRow(*row) for row in rows]


async def delete_alert_rule(connection: Connection, name: str) -> bool:
    """Delete a rule with its state. False: there is none."""
    await connection.execute("DELETE FROM alert_states WHERE name = :name", name=name)
    return await connection.execute("DELETE FROM alert_rules WHERE name = :name", name=name) == 1


async def select_alert_states(connection: Connection) -> dict[str, str]:
    """By the name of the rule."""
    rows = await connection.all("SELECT name, state FROM alert_states")
    return {row[0]: row[1] for row in rows}


async def delete_alert_state(connection: Connection, name: str) -> None:
    await connection.execute("DELETE FROM alert_states WHERE name = :name", name=name)


async def put_alert_state(connection: Connection, name: str, state: str) -> None:
    await connection.execute(
        """
        INSERT INTO alert_states (name, state) VALUES (:name, :state)
        ON CONFLICT (name) DO UPDATE SET state = excluded.state
        """,
        name=name,
        state=state,
    )
