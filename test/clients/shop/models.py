# test/clients/shop/models.py - the models of test/clients/django_app.py.
from django.db import models


class Author(models.Model):
    email = models.CharField(max_length=100, unique=True)
    name = models.CharField(max_length=100)

    class Meta:
        db_table = "author"


class Book(models.Model):
    author = models.ForeignKey(Author, models.CASCADE, related_name="books")
    price = models.IntegerField(default=0)

    class Meta:
        db_table = "book"


class Review(models.Model):
    book = models.ForeignKey(Book, models.CASCADE, related_name="reviews")

    class Meta:
        db_table = "review"


class Note(models.Model):
    author = models.ForeignKey(Author, models.SET_NULL, null=True)

    class Meta:
        db_table = "note"


class Prize(models.Model):
    author = models.ForeignKey(Author, models.PROTECT)

    class Meta:
        db_table = "prize"


class Tag(models.Model):
    name = models.CharField(max_length=100)
    books = models.ManyToManyField(Book, db_table="book_tag", related_name="tags")

    class Meta:
        db_table = "tag"


class Letter(models.Model):
    """The database does what Django would do: the foreign key is declared ON DELETE CASCADE."""
    author = models.ForeignKey(Author, models.DO_NOTHING)

    class Meta:
        db_table = "letter"


class AuthorRow(models.Model):
    """A second model of a table, which maps the column: for lists of what is deleted."""
    name = models.CharField(max_length=100)
    deleted_at = models.DateTimeField(null=True)

    class Meta:
        db_table = "author"
        managed = False
