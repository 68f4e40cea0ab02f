//! PostgreSQL's on-disk formats, pure: bytes in, plain data out. Nothing here opens a file.
