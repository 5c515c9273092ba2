"""The tables of the releases before alembic; where they are there, they are taken over.

What is written here is what those releases made: it is not to be corrected.
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make those that are missing; a release that was killed at its start left only some."""
    number = sa.Column("number", sa.Integer, primary_key=True)
    op.create_table("schema_version", number, if_not_exists=True)
    op.create_table(
        "deployments",
        sa.Column("model", sa.String(64), primary_key=True),
        sa.Column("version", sa.String(64), primary_key=True),
        sa.Column("wanted", sa.String(16), nullable=False),
        sa.Column("archive", sa.String(200), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("workers", sa.Integer, nullable=False),
        sa.Column("deployed_by", sa.String(64), nullable=False),
        sa.Column("deployed_at", sa.DateTime(timezone=True), nullable=False),
        if_not_exists=True,
    )
    op.create_table(
        "defaults",
        sa.Column("model", sa.String(64), primary_key=True),
        sa.Column("version", sa.String(64), nullable=False),
        sa.Column("previous", sa.String(64)),
        if_not_exists=True,
    )
    op.create_table(
        "audit",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("actor", sa.String(64), nullable=False),
        sa.Column("action", sa.String(32), nullable=False),
        sa.Column("model", sa.String(64)),
        sa.Column("version", sa.String(64)),
        sa.Column("outcome", sa.String(16), nullable=False),
        sa.Column("reason", sa.String(2000), nullable=False),
        if_not_exists=True,
    )
    if op.get_bind().scalar(sa.text("SELECT number FROM schema_version")) is None:
        op.execute("INSERT INTO schema_version VALUES (1)")


def downgrade() -> None:
    """Nothing: alembic's own table does not disturb those releases."""
