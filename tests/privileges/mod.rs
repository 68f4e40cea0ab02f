//! What a command of root gives to the programs that it starts as another user, and to the processes of that user: no
//! thread of its own, no terminal, no open file, no password.

mod identities;
mod passwords;
mod programs;
mod terminal;
