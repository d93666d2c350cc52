"""The networks and their arithmetic. Knows torch; knows no request, no file format, no user."""
