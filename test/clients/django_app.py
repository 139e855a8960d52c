# test/clients/django_app.py - what Django's calls do on soft-deleted tables; test/clients/run starts it.
#
# The models know nothing of deletion, but for two that map the column. WAY=pooled: everything of the application goes
# through POOLER. Each call is checked by what it returns, what Django sent, which rows the table then marks, and
# what the log got.
import os
import re
import threading

import django
import psycopg2
from django.conf import settings

POOLED = os.environ["WAY"] == "pooled"
settings.configure(
    INSTALLED_APPS=["shop"],
    DATABASES={"default": {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": os.environ["PGDATABASE"],
        "USER": "app",
        "HOST": os.environ["POOLER"] if POOLED else os.environ["PGHOST"],
        "PORT": "6432" if POOLED else os.environ["PGPORT"],
        # what Django's documentation asks for under transaction pooling
        "DISABLE_SERVER_SIDE_CURSORS": POOLED,
    }},
    DEFAULT_AUTO_FIELD="django.db.models.AutoField",
    USE_TZ=True,
)
django.setup()

from django.db import DatabaseError, IntegrityError, connection, models, transaction  # noqa: E402
from django.db.models import Count, F, Prefetch, Sum  # noqa: E402
from django.db.models.signals import post_delete  # noqa: E402
from django.test.utils import CaptureQueriesContext  # noqa: E402
from shop.models import Author, AuthorRow, Book, Letter, Note, Prize, Review, Tag  # noqa: E402


MODELS = [Author, Book, Review, Note, Prize, Tag, Letter]
TABLES = ["author", "book", "review", "note", "prize", "book_tag", "letter"]

# the truth: a superuser's own connection to the server, which sees all rows
server = psycopg2.connect(user="postgres")
server.autocommit = True
marked = {}
logged = 0
tests = 0


def look(sql, *values):
    with server.cursor() as cursor:
        cursor.execute(sql, values)
        return cursor.fetchall() if cursor.description else None


def new_log():
    global logged
    rows = look("""SELECT audit_id, concat_ws(' ', operation, table_name, row_key ->> 'id')
                     FROM softaudit.changes WHERE audit_id > %s ORDER BY audit_id""", logged)
    if rows:
        logged = rows[-1][0]
    return [row[1] for row in rows]


def marks():
    found = {t: [id for id, in look(f"SELECT id FROM {t} WHERE deleted_at IS NOT NULL ORDER BY id")] for t in TABLES}
    return {t: ids for t, ids in found.items() if ids}


def call(name, run, gets, sent=None, deleted=None, log=()):
    """Test one call: what it gets, what Django sent, rows marked (None: those of before), the log."""
    global marked, tests
    with CaptureQueriesContext(connection) as queries:
        try:
            got = run()
        except (DatabaseError, models.ObjectDoesNotExist, models.ProtectedError) as e:
            diag = getattr(e.__cause__, "diag", None)
            got = " ".join(filter(None, [type(e).__name__, getattr(e.__cause__, "pgcode", None)] + (
                [diag.table_name, diag.constraint_name, diag.message_hint] if diag else [])))
    marked = marked if deleted is None else deleted
    wrong = [f"{what}: {found!r}, not {wanted!r}" for what, found, wanted in (
        ("gets", got, gets), ("marked", marks(), marked), ("log", new_log(), list(log))) if found != wanted]
    if sent and not any(re.search(sent, q["sql"]) for q in queries):
        wrong.append(f"sent: no {sent}")
    tests += 1
    print(f"{'not ok' if wrong else 'ok'} {tests} - {name}")
    for line in wrong + ["sent " + q["sql"] for q in queries] if wrong else []:
        print("# " + line.replace("\n", "\n# "))


def names(rows):
    return [row.name for row in rows]


def execute(sql, *values):
    with connection.cursor() as cursor:
        cursor.execute(sql, values)
        return cursor.fetchone()[0] if cursor.description else None


def with_deleted(read):
    with transaction.atomic():
        execute("SET LOCAL softaudit.show_deleted = on")
        return read()


def act(f, *args, **kwargs):
    """Call f for its effect alone."""
    f(*args, **kwargs)


def set_up():
    """The set-up is a migration of the application's; sessions that were open before have no library."""
    with connection.schema_editor() as editor:
        for model in MODELS:
            editor.create_model(model)
    key = execute("SELECT conname FROM pg_constraint WHERE conrelid = 'letter'::regclass AND contype = 'f'")
    execute(f'ALTER TABLE letter DROP CONSTRAINT "{key}", ADD CONSTRAINT letter_author_fk FOREIGN KEY (author_id) REFERENCES author ON DELETE CASCADE')
    for table in TABLES:
        execute("SELECT softaudit.enable(%s::regclass)", table)
    connection.close()
    if POOLED:
        admin = psycopg2.connect(host=os.environ["POOLER"], port=6432, user="postgres", dbname="pgbouncer")
        admin.autocommit = True
        admin.cursor().execute("RECONNECT")
        admin.close()


def main():
    look("SET softaudit.show_deleted = on")
    set_up()
    call("the library is loaded", lambda: execute("SELECT softaudit.is_active()"), True)

    call("bulk_create", lambda: names(Author.objects.bulk_create(Author(name=n, email=n + "@x.org") for n in ("ann", "bob", "cid"))), ["ann", "bob", "cid"],
         log=["INSERT author 1", "INSERT author 2", "INSERT author 3"])
    call("create", lambda: [Book.objects.create(author_id=a, price=p).pk for a, p in ((1, 10), (1, 20), (2, 30))], [1, 2, 3],
         log=["INSERT book 1", "INSERT book 2", "INSERT book 3"])
    call("create of grandchildren", lambda: [Review.objects.create(book_id=b).pk for b in (1, 1, 3)], [1, 2, 3], log=[f"INSERT review {i}" for i in (1, 2, 3)])
    Note.objects.create(author_id=1)
    new_log()
    ann, stale, narrow = (Author.objects.get(name="ann") for _ in range(3))
    old = Author.objects.get(name="bob")

    # delete: the Collector deletes children itself, each table by a statement of its own
    call("delete", lambda: ann.delete(), (5, {"shop.Review": 2, "shop.Book": 2, "shop.Author": 1}),
         sent=r'^DELETE FROM "author"', deleted={"author": [1], "book": [1, 2], "review": [1, 2]},
         log=["SOFT_DELETE review 1", "SOFT_DELETE review 2", "UPDATE note 1", "SOFT_DELETE book 2", "SOFT_DELETE book 1", "SOFT_DELETE author 1"])


main()
print(f"1..{tests}")
