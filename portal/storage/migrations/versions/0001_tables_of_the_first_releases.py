"""The tables of the releases before alembic; where they are there, they are taken over.

What is written here is what those releases made: it is not to be corrected.
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make those that are missing; a release that was killed at its start left only some."""
    connection = op.get_bind()
    here = set(sa.inspect(connection).get_table_names())
    for table in TABLES:
        if table.name not in here:
            table.create(connection)
    numbers = METADATA.tables["schema_version"]
    if connection.scalar(sa.select(numbers)) is None:
        connection.execute(sa.insert(numbers).values(number=1))


def downgrade() -> None:
    """Nothing: alembic's own table does not disturb those releases."""


METADATA = sa.MetaData()
TABLES = (
    sa.Table("schema_version", METADATA, sa.Column("number", sa.Integer, primary_key=True)),
    sa.Table(
        "deployments",
        METADATA,
        sa.Column("model", sa.String(64), primary_key=True),
        sa.Column("version", sa.String(64), primary_key=True),
        sa.Column("wanted", sa.String(16), nullable=False),
        sa.Column("archive", sa.String(200), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("workers", sa.Integer, nullable=False),
        sa.Column("deployed_by", sa.String(64), nullable=False),
        sa.Column("deployed_at", sa.DateTime(timezone=True), nullable=False),
    ),
    sa.Table(
        "defaults",
        METADATA,
        sa.Column("model", sa.String(64), primary_key=True),
        sa.Column("version", sa.String(64), nullable=False),
        sa.Column("previous", sa.String(64)),
    ),
    sa.Table(
        "audit",
        METADATA,
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("actor", sa.String(64), nullable=False),
        sa.Column("action", sa.String(32), nullable=False),
        sa.Column("model", sa.String(64)),
        sa.Column("version", sa.String(64)),
        sa.Column("outcome", sa.String(16), nullable=False),
        sa.Column("reason", sa.String(2000), nullable=False),
    ),
)
