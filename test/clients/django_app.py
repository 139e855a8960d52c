# test/clients/django_app.py - what Django's calls do on soft-deleted tables; test/clients/run starts it.
#
# The models know nothing of deletion, but for two that map the column. WAY=pooled: everything of the application goes
# through POOLER. Each call is checked by what it returns, what Django sent, which rows the table then marks, and
# what the log got.
import os
import re
import threading
from time import sleep

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

from django.db import DatabaseError, connection, models, transaction  # noqa: E402
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
        ("gets", got, got if hasattr(gets, "match") and gets.match(str(got)) else gets), ("marked", marks(), marked), ("log", new_log(), list(log))) if found != wanted]
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


def less(**rows):
    """Tell what is marked: as before, but for some tables."""
    return {t: ids for t, ids in {**marked, **rows}.items() if ids}


def get(result):
    """Tell the key, and whether the row was made."""
    return result[0].pk, result[1]


def author(*names):
    return [Author(name=n, email=n + "@x.org") for n in names]


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

    call("bulk_create", lambda: names(Author.objects.bulk_create(author("ann", "bob", "cid"))), ["ann", "bob", "cid"],
         log=["INSERT author 1", "INSERT author 2", "INSERT author 3"])
    call("create", lambda: [Book.objects.create(author_id=a, price=p).pk for a, p in ((1, 10), (1, 20), (2, 30))], [1, 2, 3],
         log=["INSERT book 1", "INSERT book 2", "INSERT book 3"])
    call("create of grandchildren", lambda: [Review.objects.create(book_id=b).pk for b in (1, 1, 3)], [1, 2, 3], log=[f"INSERT review {i}" for i in (1, 2, 3)])
    Note.objects.create(author_id=1)
    new_log()
    ann, stale = (Author.objects.get(name="ann") for _ in range(2))
    old = Author.objects.get(name="bob")

    # delete: the Collector deletes children itself, each table by a statement of its own
    call("delete", lambda: ann.delete(), (5, {"shop.Review": 2, "shop.Book": 2, "shop.Author": 1}), sent=r'^DELETE FROM "author"',
         deleted={"author": [1], "book": [1, 2], "review": [1, 2]},
         log=["SOFT_DELETE review 1", "SOFT_DELETE review 2", "UPDATE note 1", "SOFT_DELETE book 1", "SOFT_DELETE book 2", "SOFT_DELETE author 1"])
    stamp = look("SELECT deleted_at FROM author WHERE id = 1")
    call("its statements have a stamp each", lambda: look("SELECT count(*), count(DISTINCT b.deleted_at), min(b.deleted_at) < a.deleted_at FROM book b, author a WHERE a.id = 1 AND b.author_id = 1 GROUP BY a.id"),
         [(2, 1, True)])
    call("delete of what is deleted", lambda: stale.delete(), (0, {}), sent=r'^DELETE FROM "author"')
    call("which keeps the stamp", lambda: look("SELECT deleted_at FROM author WHERE id = 1"), stamp)

    # a stale object
    stale.pk = 1
    call("save of a stale object: UPDATE finds no row, so Django inserts", lambda: stale.save(), re.compile("IntegrityError 23505 author author_pkey"), sent="^INSERT INTO")
    call("save of a stale object, force_update", lambda: stale.save(force_update=True), "DatabaseError")
    call("save of a stale object, update_fields", lambda: stale.save(update_fields=["name"]), "DatabaseError")
    call("refresh_from_db of a stale object", lambda: stale.refresh_from_db(), "DoesNotExist")

    # reading
    authors = Author.objects.order_by("pk")
    call("all", lambda: names(authors), ["bob", "cid"])
    call("get", lambda: Author.objects.get(pk=1), "DoesNotExist")
    call("first, last, exists, count", lambda: (authors.first().name, authors.last().name, authors.filter(name="ann").exists(), authors.count()), ("bob", "cid", False, 2))
    call("in_bulk", lambda: sorted(Author.objects.in_bulk([1, 2, 3])), [2, 3])
    call("iterator", lambda: names(authors.iterator()), ["bob", "cid"])
    call("aggregate", lambda: Book.objects.aggregate(Sum("price"))["price__sum"], 30)
    call("annotate", lambda: list(authors.annotate(n=Count("books")).values_list("name", "n")), [("bob", 1), ("cid", 0)])
    call("filter over a join", lambda: names(authors.filter(books__price__gt=0)), ["bob"])
    call("exclude over a join", lambda: names(authors.exclude(books__price__gt=0)), ["cid"])
    call("select_related", lambda: [(b.pk, b.author.name) for b in Book.objects.select_related("author")], [(3, "bob")], sent="INNER JOIN")
    call("select_related of a nullable key", lambda: [(n.pk, n.author) for n in Note.objects.select_related("author")], [(1, None)], sent="LEFT OUTER JOIN")
    call("prefetch_related", lambda: [(a.name, [(b.pk, len(b.reviews.all())) for b in a.books.all()]) for a in authors.prefetch_related("books__reviews")],
         [("bob", [(3, 1)]), ("cid", [])], sent=r'WHERE "book"."author_id" IN \(2, 3\)')
    call("prefetch_related with a query", lambda: [[b.pk for b in a.dear] for a in authors.prefetch_related(Prefetch("books", Book.objects.filter(price__gt=5), "dear"))], [[3], []])
    call("union", lambda: sorted(names(Author.objects.filter(pk__lt=3).union(Author.objects.filter(pk__gt=1)))), ["bob", "cid"])
    call("all under show_deleted", lambda: with_deleted(lambda: names(authors.all())), ["ann", "bob", "cid"])
    call("prefetch_related under show_deleted", lambda: with_deleted(lambda: [len(a.books.all()) for a in authors.prefetch_related("books")]), [2, 1, 0])
    call("a model that maps the column asks for deleted rows", lambda: names(AuthorRow.objects.filter(deleted_at__isnull=False)), ["ann"])
    call("and sees live ones where it does not", lambda: names(AuthorRow.objects.order_by("pk")), ["bob", "cid"])

    # locks
    def lock(**options):
        with transaction.atomic():
            found = names(Author.objects.select_for_update(**options).filter(pk__in=[1, 2]))
            try:
                look("SELECT FROM author WHERE id = 2 FOR UPDATE NOWAIT")
            except psycopg2.errors.LockNotAvailable:
                found.append("locked")
            return found
    call("select_for_update", lock, ["bob", "locked"], sent="FOR UPDATE")
    call("select_for_update, skip_locked", lambda: lock(skip_locked=True), ["bob", "locked"], sent="FOR UPDATE SKIP LOCKED")

    def wait_for_delete():
        other = psycopg2.connect(user="postgres")
        other.cursor().execute("DELETE FROM author WHERE id = 3")

        waited = []

        def commit():
            for _ in range(200):
                if look("SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"):
                    waited.append(True)
                    break
                sleep(0.05)
            other.commit()
        thread = threading.Thread(target=commit)
        thread.start()
        with transaction.atomic():
            found = names(Author.objects.select_for_update().filter(pk=3))
        thread.join()
        return found, waited
    call("select_for_update waits for a delete, and finds nothing", wait_for_delete, ([], [True]), deleted={**marked, "author": [1, 3]}, log=["SOFT_DELETE author 3"])

    # rows are made and changed beside deleted ones; each row that was to be inserted took a number
    call("update", lambda: Author.objects.filter(pk__in=[1, 2]).update(name="Bob"), 1, log=["UPDATE author 2"])
    call("update with F()", lambda: Book.objects.update(price=F("price") + 1), 1, log=["UPDATE book 3"])
    call("save", lambda: old.save(), None, sent="^UPDATE", log=["UPDATE author 2"])
    call("create with the value of a deleted row", lambda: Author.objects.create(email="cid@x.org", name="cid").pk, 4, log=["INSERT author 4"])
    call("create of a child of a deleted row", lambda: Book.objects.create(author_id=1), re.compile("IntegrityError 23503 book book_author_id_.* Restore the row of \"author\" first"))
    call("get_or_create of a live row", lambda: get(Author.objects.get_or_create(email="bob@x.org")), (2, False))
    call("get_or_create where a deleted row has the value", lambda: get(Author.objects.get_or_create(email="ann@x.org", defaults={"name": "ann2"})), (5, True), log=["INSERT author 5"])
    call("get_or_create by the key of a deleted row", lambda: Author.objects.get_or_create(pk=1), re.compile("IntegrityError 23505 author author_pkey"))
    call("update_or_create of a live row", lambda: get(Author.objects.update_or_create(email="ann@x.org", defaults={"name": "ann3"})), (5, False), sent="FOR UPDATE", log=["UPDATE author 5"])
    Author.objects.get(pk=5).delete()
    new_log()
    marked["author"].append(5)
    call("update_or_create where a deleted row has the value", lambda: get(Author.objects.update_or_create(email="ann@x.org", defaults={"name": "ann4"})), (6, True), log=["INSERT author 6"])
    call("update_or_create by the key of a deleted row", lambda: Author.objects.update_or_create(pk=1, defaults={"name": "x"}), re.compile("IntegrityError 23505 author author_pkey"))
    call("bulk_update", lambda: act(Author.objects.bulk_update, [Author(pk=1, name="x"), Author(pk=2, name="bob")], ["name"]), None, log=["UPDATE author 2"])
    call("bulk_create with ignore_conflicts", lambda: act(Author.objects.bulk_create, author("bob", "eve"), ignore_conflicts=True), None,
         sent="ON CONFLICT DO NOTHING", log=["INSERT author 8"])
    if django.VERSION >= (4, 1):
        update = {"update_conflicts": True, "update_fields": ["name"]}
        call("bulk_create with update_conflicts: a live row, and a value that a deleted one has", lambda: act(Author.objects.bulk_create, author("eve", "cid"), unique_fields=["email"], **update),
             None, sent=r'ON CONFLICT\("email"\) DO UPDATE', log=["UPDATE author 8", "UPDATE author 4"])
        Author.objects.get(pk=8).delete()
        new_log()
        marked["author"].append(8)
        call("bulk_create with update_conflicts: a deleted row has the value", lambda: act(Author.objects.bulk_create, author("eve"), unique_fields=["email"], **update),
             None, log=["INSERT author 11"])
        call("bulk_create with update_conflicts by the key of a deleted row", lambda: Author.objects.bulk_create([Author(pk=1, name="x")], unique_fields=["pk"], **update),
             re.compile("IntegrityError 23505 author Bring the row back with softaudit.restore"))
    else:
        Author.objects.get(pk=8).delete()
        Author.objects.bulk_create(author("eve"))
        new_log()
        marked["author"].append(8)
    look("SELECT setval('author_id_seq', 20)")

    # restore: an UPDATE, or the function; what the Collector deleted by statements of its own stays deleted
    ann = AuthorRow.objects.filter(pk=1)
    call("restore while a live row has the value", lambda: ann.update(deleted_at=None), re.compile("IntegrityError 23505 author author_email"))
    call("delete of the twin", lambda: Author.objects.filter(pk=6).delete(), (1, {"shop.Author": 1}), deleted=less(author=[1, 3, 5, 6, 8]), log=["SOFT_DELETE author 6"])
    call("restore by an update", lambda: ann.update(deleted_at=None), 1, sent='^UPDATE "author" SET "deleted_at" = NULL', deleted=less(author=[3, 5, 6, 8]), log=["RESTORE author 1"])
    call("restore by the function", lambda: execute("SELECT softaudit.restore('book', %s)", 1), 1, deleted=less(book=[2]), log=["RESTORE book 1"])
    call("get of what was restored", lambda: [(a.name, len(a.books.all())) for a in Author.objects.prefetch_related("books").filter(pk=1)], [("ann", 1)])

    # a foreign key that the database cascades: children go with their parent, and come back
    cid = Author.objects.get(pk=4)
    Letter.objects.create(author=cid)
    Letter.objects.create(author=cid)
    new_log()
    call("delete where the database cascades", lambda: cid.delete(), (1, {"shop.Author": 1}), deleted=less(author=[3, 4, 5, 6, 8], letter=[1, 2]),
         log=["SOFT_DELETE author 4", "SOFT_DELETE letter 1", "SOFT_DELETE letter 2"])
    call("restore where the database cascades", lambda: execute("SELECT softaudit.restore('author', %s)", 4), 3, deleted=less(author=[3, 5, 6, 8], letter=None),
         log=["RESTORE author 4", "RESTORE letter 1", "RESTORE letter 2"])

    # a model that maps the column saves it, too
    row = AuthorRow.objects.get(pk=4)
    Author.objects.get(pk=4).delete()
    new_log()
    marked.update(author=[3, 4, 5, 6, 8], letter=[1, 2])
    call("save of a stale object with the column, update_fields", lambda: row.save(update_fields=["name"]), "DatabaseError")
    call("save of a stale object with the column restores the row", lambda: row.save(), None, sent='"deleted_at" = NULL', deleted=less(author=[3, 5, 6, 8], letter=None),
         log=["RESTORE author 4", "RESTORE letter 1", "RESTORE letter 2"])

    # other foreign keys
    bob = Author.objects.get(pk=2)
    prize = Prize.objects.create(author=bob)
    new_log()
    call("delete of what is protected", lambda: bob.delete(), "ProtectedError")
    call("delete of what protects", lambda: prize.delete(), (1, {"shop.Prize": 1}), deleted=less(prize=[1]), log=["SOFT_DELETE prize 1"])
    deleted_reviews = []
    post_delete.connect(lambda instance, **_: deleted_reviews.append(instance.pk), Review, weak=False)
    call("delete, with signals", lambda: (Book.objects.filter(author__name="bob").delete(), deleted_reviews), ((2, {"shop.Review": 1, "shop.Book": 1}), [3]),
         deleted=less(book=[2, 3], review=[1, 2, 3]), log=["SOFT_DELETE review 3", "SOFT_DELETE book 3"])
    post_delete.disconnect(sender=Review)

    def parent_first(children):
        with transaction.atomic():
            Author.objects.filter(pk=21)._raw_delete("default")
            return Book.objects.filter(author_id=21)._raw_delete("default") if children else None
    Book.objects.create(author=Author.objects.create(name="zoe", email="zoe@x.org"))
    new_log()
    call("keys are checked at the commit: a live child", lambda: parent_first(False), re.compile("IntegrityError 23503 book book_author_id_"))
    call("keys are checked at the commit: the child goes last", lambda: parent_first(True), 1, deleted=less(author=[3, 5, 6, 8, 21], book=[2, 3, 5]),
         log=["SOFT_DELETE author 21", "SOFT_DELETE book 5"])

    # many to many
    book = Book.objects.get(pk=1)
    a, b = Tag.objects.create(name="a"), Tag.objects.create(name="b")
    new_log()
    call("add", lambda: book.tags.add(a, b), None, sent="ON CONFLICT DO NOTHING", log=["INSERT book_tag 1", "INSERT book_tag 2"])
    call("remove", lambda: (book.tags.remove(b), names(book.tags.all())), (None, ["a"]), deleted=less(book_tag=[2]), log=["SOFT_DELETE book_tag 2"])
    call("add what was removed", lambda: (book.tags.add(b), sorted(names(book.tags.all()))), (None, ["a", "b"]), log=["INSERT book_tag 3"])
    call("set", lambda: book.tags.set([a]), None, deleted=less(book_tag=[2, 3]), log=["SOFT_DELETE book_tag 3"])
    call("prefetch_related, many to many", lambda: [names(x.tags.all()) for x in Book.objects.prefetch_related("tags")], [["a"]])
    call("clear", lambda: book.tags.clear(), None, deleted=less(book_tag=[1, 2, 3]), log=["SOFT_DELETE book_tag 1"])

    # transactions, who acts, what is left to DELETE
    def roll_back():
        with transaction.atomic():
            Author.objects.all().delete()
            live = Author.objects.count()
            raise DatabaseError(look("SELECT %s", live))

    def savepoint():
        with transaction.atomic():
            try:
                with transaction.atomic():
                    Author.objects.filter(pk=2).delete()
                    Author.objects.get(pk=2)
            except Author.DoesNotExist:
                pass
            return Author.objects.get(pk=2).name

    def remove():
        with transaction.atomic():
            execute("SET LOCAL softaudit.hard_delete = on")
            return Author.objects.filter(pk=4)._raw_delete("default")

    def as_carol():
        with transaction.atomic():
            execute("SELECT softaudit.act_as(%s)", "carol")
            Author.objects.filter(pk=2).update(name="robert")
        Author.objects.filter(pk=2).update(name="bob")
        return look("SELECT changed_by FROM softaudit.history('author', 2) ORDER BY audit_id DESC LIMIT 2")
    call("a transaction that rolls back", roll_back, "DatabaseError")
    call("a savepoint that rolls back", savepoint, "bob")
    call("act_as in a transaction", as_carol, [("app",), ("carol",)], log=["UPDATE author 2", "UPDATE author 2"])
    call("delete under hard_delete, without the privilege", remove, "ProgrammingError 42501")
    look("GRANT SET ON PARAMETER softaudit.hard_delete TO app")
    call("delete under hard_delete: as without softaudit", remove, 1, log=["DELETE author 4", "DELETE letter 1", "DELETE letter 2"])
    call("the rows are gone", lambda: look("SELECT (SELECT count(*) FROM author WHERE id = 4), (SELECT count(*) FROM letter)"), [(0, 0)])
    look("REVOKE SET ON PARAMETER softaudit.hard_delete FROM app")

    # many at once
    def request(seen):
        for _ in range(10):
            seen.add(f"live {Author.objects.count()}")
            seen.add(f"all {with_deleted(Author.objects.count)}")
        connection.close()

    def session(seen):
        seen.add(execute("SELECT pg_backend_pid() FROM pg_sleep(0.2)"))
        connection.close()

    def at_once(work):
        seen = set()
        threads = [threading.Thread(target=work, args=(seen,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return seen
    call("each request sees what it asked for", lambda: sorted(at_once(request)), ["all 8", "live 3"])
    call(f"over {'two' if POOLED else 'eight'} server sessions", lambda: len(at_once(session)), 2 if POOLED else 8)

    # migrations
    def alter(new):
        old = Author._meta.get_field("email")
        new.set_attributes_from_name("email")
        new.model = Author
        with connection.schema_editor() as editor:
            editor.alter_field(Author, old, new)

    def add():
        field = models.IntegerField(null=True)
        field.set_attributes_from_name("age")
        with connection.schema_editor() as editor:
            editor.add_field(Author, field)
    call("AddField", add, None)
    call("AlterField, another type", lambda: alter(models.CharField(max_length=200, unique=True)), None)
    call("AlterField, unique no more: a live-unique constraint is an index", lambda: alter(models.CharField(max_length=100)), "ProgrammingError 42704")
    call("so it is dropped as one", lambda: execute("DROP INDEX author_email_key"), None)


main()
print(f"1..{tests}")
