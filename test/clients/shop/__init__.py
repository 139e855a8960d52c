# shop - the application that django_app.py runs.
