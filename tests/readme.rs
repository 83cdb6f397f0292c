//! The README's own commands, extracted and executed.

use std::path::PathBuf;
use std::process::Command;

use crate::support::clients::{psql, run};
use crate::support::postgres::Postgres;
use crate::support::program::{Program, binary};
use crate::support::{Scratch, free_port};

fn readme() -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("README.md");
    std::fs::read_to_string(path).expect("README.md")
}

/// The lines of the fenced `sh` blocks, joined where a line ends in a backslash; comments left out.
fn commands() -> Vec<String> {
    let readme = readme();
    let mut found = Vec::new();
    let mut inside = false;
    let mut open = String::new();
    for line in readme.lines() {
        if line.starts_with("```") {
            inside = line == "```sh";
        } else if inside && !line.trim().is_empty() && !line.starts_with('#') {
            open += line.trim_end_matches('\\');
            if !line.ends_with('\\') {
                found.push(std::mem::take(&mut open));
            }
        }
    }
    found
}

/// What the reader would get by typing the command, with the built program and free ports in place of the usual ones.
fn prepared(command: &str, ports: &[(u16, u16)]) -> String {
    let client = format!("{} sql --pg-addr 127.0.0.1:5433", binary());
    let mut text = command.replace("cargo run --release -- sql", &client).replace("cargo run --release --", binary());
    for (usual, free) in ports {
        text = text.replace(&usual.to_string(), &free.to_string());
    }
    text
}

fn shell(text: &str, directory: &Scratch) {
    let out = run(Command::new("bash")
        .args(["-euo", "pipefail", "-c", text])
        .current_dir(directory.path())
        .env("PGUSER", "someone"));
    assert!(!out.stdout.is_empty(), "{text} printed nothing");
}

#[test]
fn the_readmes_commands_work() {
    let scratch = Scratch::new("readme");
    let commands = commands();
    let any = "--kafka-addr 127.0.0.1:0 --pg-addr 127.0.0.1:0 --http-addr 127.0.0.1:0";
    let demos: Vec<_> = commands.iter().filter(|c| c.contains("-- demo")).collect();
    assert!(!demos.is_empty(), "the README begins with the demo");
    for demo in demos {
        shell(&format!("{} --for 10s {any}", prepared(demo, &[])), &scratch);
    }
    let servers: Vec<_> = commands.iter().filter(|c| c.contains("-- dev")).collect();
    assert_eq!(servers.len(), 1, "the README starts one server");
    let kafka = free_port();
    let postgres = free_port();
    let http = free_port();
    let (kafka_addr, pg_addr, http_addr) =
        (format!("127.0.0.1:{kafka}"), format!("127.0.0.1:{postgres}"), format!("127.0.0.1:{http}"));
    let _program = Program::at(&scratch.path().join("data"), &kafka_addr, &pg_addr, &http_addr);
    let ports = [(9092, kafka), (5433, postgres), (8080, http)];
    let mut ran = 0;
    for command in &commands {
        let other = ["cargo build", "tests/run", "-- demo", "-- dev", "apt-get", "git clone"];
        if !other.iter().any(|o| command.contains(o)) {
            shell(&prepared(command, &ports), &scratch);
            ran += 1;
        }
    }
    assert!(ran >= 5, "the README shows only {ran} commands to try");
}

/// The block that captures the reader's own database, against one as it supposes it.
#[test]
fn the_readmes_source_and_view_work() {
    let readme = readme();
    let block = readme.split("```sql\n").skip(1).map(|rest| rest.split("```").next().expect("an end"));
    let block = block.into_iter().find(|block| block.contains("'postgres://")).expect("a block with a url");
    let server = Postgres::start();
    server.execute("CREATE ROLE app LOGIN REPLICATION PASSWORD 'secret'");
    server.execute("CREATE DATABASE shop OWNER app");
    let url = format!("postgres://app:secret@127.0.0.1:{}/shop", server.port);
    crate::support::block_on(async {
        let client = crate::support::postgres::connect(&url).await;
        let tables = "CREATE TABLE customers (id bigint PRIMARY KEY, name text);
             CREATE TABLE orders (id bigint PRIMARY KEY, customer_id bigint, amount numeric(12,2));
             INSERT INTO orders VALUES (1, 7, 10.50), (2, 7, 0.25), (3, 8, 1)";
        client.batch_execute(tables).await.expect("tables");
    });
    let text = block.replace("postgres://app:secret@localhost/shop", &url);
    assert_ne!(text, block, "the README connects as app");
    let scratch = Scratch::new("readme-sql");
    let program = Program::start(&scratch.path().join("data"));
    let file = scratch.path().join("readme.sql");
    std::fs::write(&file, text).expect("a file");
    let out = psql(program.postgres, "riverrun", &["-A", "-t", "-f", &file.display().to_string()]);
    assert_eq!(out.lines().last(), Some("7|10.75"), "{out}");
}
