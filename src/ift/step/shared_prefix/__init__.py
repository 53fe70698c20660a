"""What precedes the first trained token of a row, computed once for both passes of a step."""
