//! `riverrun sql`: a client over the PostgreSQL wire, for people without psql at hand.

use std::future::poll_fn;
use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::path::Path;

use tokio_postgres::error::{DbError, ErrorPosition};
use tokio_postgres::{AsyncMessage, Client, Config, NoTls, SimpleQueryMessage};

use super::render::{Output, Rows};
use super::{Failure, SqlArguments};
use crate::config::{read_text, resolve};

pub(super) async fn run(arguments: &SqlArguments) -> Result<(), Failure> {
    let env = log::Env::real();
    let client = connect(&env, &arguments.pg_addr, &arguments.database).await?;
    for statement in &arguments.command {
        execute(&client, statement, arguments.output).await?;
    }
    for file in &arguments.file {
        if file == Path::new("-") {
            from_stdin(&client, arguments.output).await?;
            continue;
        }
        let text = read_text(env.disk().as_ref(), file);
        let text = text.map_err(|error| Failure::new(1, format!("cannot read {}: {error}", file.display())))?;
        execute(&client, &text, arguments.output).await?;
    }
    if arguments.command.is_empty() && arguments.file.is_empty() {
        from_stdin(&client, arguments.output).await?;
    }
    Ok(())
}

/// Connects as the user that the process runs for; notices go to stderr.
pub(super) async fn connect(env: &log::Env, addr: &str, database: &str) -> Result<Client, Failure> {
    let at = resolve(addr).map_err(|error| Failure::new(2, format!("{addr:?} is no address: {error}")))?;
    let user = std::env::var("USER").ok().filter(|user| !user.is_empty()).unwrap_or_else(|| "riverrun".into());
    let mut config = Config::new();
    config.host(at.ip().to_string()).port(at.port()).user(user).dbname(database).application_name("riverrun sql");
    let (client, mut connection) = config.connect(NoTls).await.map_err(|error| match error.as_db_error() {
        Some(error) => failure(error, ""),
        None => Failure {
            code: 6,
            message: format!("cannot connect to {at}: {}", crate::server::chain(&error)),
            hint: Some("is it running? `riverrun dev` starts one; --pg-addr names another address".into()),
        },
    })?;
    // The task ends with the connection; its errors reach whoever waits for a result.
    drop(env.spawn("postgres client", async move {
        while let Some(Ok(message)) = poll_fn(|cx| connection.poll_message(cx)).await {
            if let AsyncMessage::Notice(notice) = message {
                eprintln!("{}: {}", notice.severity().to_lowercase(), notice.message());
            }
        }
    }));
    Ok(client)
}

/// Runs the statements of `text` and gives the results that have rows.
pub(super) async fn query(client: &Client, text: &str) -> Result<Vec<(Rows, String)>, Failure> {
    let messages = client.simple_query(text).await.map_err(|error| match error.as_db_error() {
        Some(error) => failure(error, text),
        None => Failure::new(6, format!("the connection broke off: {}", crate::server::chain(&error))),
    })?;
    let mut results = Vec::new();
    let mut open: Option<Rows> = None;
    for message in messages {
        match message {
            SimpleQueryMessage::RowDescription(columns) => {
                let columns = columns.iter().map(|column| column.name().to_owned()).collect();
                open = Some(Rows { columns, rows: Vec::new() });
            }
            SimpleQueryMessage::Row(row) => {
                let cells = (0..row.len()).map(|column| row.get(column).map(str::to_owned)).collect();
                open.get_or_insert_with(Rows::default).rows.push(cells);
            }
            SimpleQueryMessage::CommandComplete(count) => {
                let tag = if count == 0 { "done".to_owned() } else { format!("done, {count} rows") };
                results.push((open.take().unwrap_or_default(), tag));
            }
            _ => {}
        }
    }
    Ok(results)
}

async fn execute(client: &Client, text: &str, output: Output) -> Result<(), Failure> {
    for (rows, tag) in query(client, text).await? {
        let shown = match output {
            _ if !rows.columns.is_empty() => rows.render(output),
            Output::Table => format!("{tag}\n"),
            Output::Json => String::new(),
        };
        // Whoever reads may have seen enough.
        if std::io::stdout().write_all(shown.as_bytes()).is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// Runs statements line by line, each up to its semicolon. On a terminal an error does not end it.
async fn from_stdin(client: &Client, output: Output) -> Result<(), Failure> {
    let interactive = std::io::stdin().is_terminal();
    let mut open = String::new();
    loop {
        if interactive {
            eprint!("{}", if open.is_empty() { "riverrun=> " } else { "riverrun-> " });
        }
        let mut line = String::new();
        let read = std::io::stdin().lock().read_line(&mut line);
        let ended = read.map_err(|error| Failure::new(1, format!("cannot read standard input: {error}")))? == 0;
        open += &line;
        if !ended && !is_whole(&open) {
            continue;
        }
        let text = std::mem::take(&mut open);
        if interactive && matches!(text.trim(), "\\q" | "exit" | "quit" | "exit;" | "quit;") {
            return Ok(());
        }
        match execute(client, &text, output).await {
            Err(failure) if interactive && failure.code != 6 => eprintln!("{failure}"),
            result => result?,
        }
        if ended {
            return Ok(());
        }
    }
}

/// Whether the text ends with a statement's semicolon, outside of quotes.
fn is_whole(text: &str) -> bool {
    let (mut single, mut double) = (false, false);
    for c in text.chars() {
        match c {
            '\'' if !double => single = !single,
            '"' if !single => double = !double,
            _ => {}
        }
    }
    let last = text.trim_end();
    !single && !double && (last.is_empty() || last.ends_with(';') || last == "\\q" || last == "exit" || last == "quit")
}

/// A server's error with its place in the statement, as psql shows it.
fn failure(error: &DbError, statement: &str) -> Failure {
    let mut message = format!("{} [{}]", error.message(), error.code().code());
    if let Some(ErrorPosition::Original(position)) = error.position() {
        message += &place(statement, *position as usize);
    }
    if let Some(detail) = error.detail() {
        message += &format!("\n  detail: {detail}");
    }
    let code = match error.code().code() {
        "42P01" | "3D000" | "3F000" | "42704" | "42703" => 3,
        "42P07" | "42710" => 4,
        "28000" | "28P01" | "42501" => 5,
        _ => 1,
    };
    Failure { code, message, hint: error.hint().map(str::to_owned) }
}

/// The line of the statement that holds the character at `position` (from 1), and a caret below it.
fn place(statement: &str, position: usize) -> String {
    let before: String = statement.chars().take(position.saturating_sub(1)).collect();
    let number = before.matches('\n').count();
    let column = before.chars().rev().take_while(|c| *c != '\n').count();
    let line = statement.lines().nth(number).unwrap_or_default();
    let head = format!("LINE {}: ", number + 1);
    format!("\n  {head}{line}\n  {}^", " ".repeat(head.len() + column))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_ends_at_its_semicolon() {
        for (text, whole) in [
            ("SELECT 1;\n", true),
            ("SELECT 1\n", false),
            ("SELECT ';\n", false),
            ("SELECT ';'; \n", true),
            ("\n", true),
        ] {
            assert_eq!(is_whole(text), whole, "{text:?}");
        }
    }

    #[test]
    fn the_caret_stands_below_the_place() {
        assert_eq!(place("SELECT a\nFROM é x", 15), "\n  LINE 2: FROM é x\n               ^");
    }
}
