# test/clients/shop - the application that test/clients/django_app.py runs.
