//! A program that wants a live server in a directory of its own: `embedded DIRECTORY [stop]`.
//!
//! Run it any number of times, also at once: there is one server, which goes on when the program ends.

#![expect(clippy::print_stdout, reason = "what a program prints is its result")]

use anyhow::Context;

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args_os().skip(1);
    let base_directory = arguments.next().context("the first argument is the base directory")?;
    let options = pgbox::Options::new(base_directory).application_role("visitor").database("visits");
    if arguments.next().is_some_and(|word| word == "stop") {
        let ran = pgbox::stop(&options)?;
        println!("{}", if ran { "stopped" } else { "no server ran" });
        return Ok(());
    }

    let server = pgbox::ensure_running(&options)?;

    let mut session = postgres::Client::connect(&server.connection_string(), postgres::NoTls)?;
    session.batch_execute(
        "CREATE TABLE IF NOT EXISTS visit (process int, at timestamptz DEFAULT now());
         INSERT INTO visit SELECT pg_backend_pid()",
    )?;
    let visits: i64 = session.query_one("SELECT count(*) FROM visit", &[])?.get(0);
    println!("process {} port {} visits {visits}", server.pid, server.address.port);
    Ok(())
}
