//! `riverrun demo`: the main job without a database. A generated shop changes; a view over a join follows it and is shown.

use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use tokio_postgres::Client;

use super::render::{Output, Rows};
use super::sql::{connect, query};
use super::{DemoArguments, Failure, asked_to_stop};
use crate::config::Config;
use crate::server::{Addresses, Server};

/// What the demo creates.
const SET_UP: [&str; 2] = [
    "CREATE SOURCE shop WITH (connector = 'generator', rate = '200')",
    "CREATE MATERIALIZED VIEW best_customers AS
       SELECT c.id, c.name, count(*) AS orders, sum(o.amount) AS spent
       FROM shop.public.customers c JOIN shop.public.orders o ON o.customer_id = c.id
       GROUP BY c.id, c.name",
];

/// What it shows.
const SHOWN: &str = "SELECT id, name, orders, spent FROM best_customers ORDER BY spent DESC, id LIMIT 10";

/// Time between two looks at the view: fast enough to be alive, slow enough to be read.
const LOOK_EVERY: Duration = Duration::from_millis(500);

pub(super) async fn run(arguments: &DemoArguments) -> Result<(), Failure> {
    let env = log::Env::real();
    let mut config = arguments.server.config(&env)?;
    let scratch = arguments.server.data_dir.is_none();
    if scratch {
        config.data.dir = std::env::temp_dir().join(format!("riverrun-demo-{}", std::process::id()));
    }
    choose_ports(&env, &mut config, arguments).await;
    let outcome = serve(&env, &config, arguments).await;
    if scratch && let Err(error) = env.disk().remove_dir(&config.data.dir) {
        tracing::warn!(directory = %config.data.dir.display(), %error, "the demo's data could not be removed");
    }
    outcome
}

/// Usual ports that are taken give way to any free one, unless somebody asked for them.
async fn choose_ports(env: &log::Env, config: &mut Config, arguments: &DemoArguments) {
    let given = &arguments.server;
    for (flag, addr) in [
        (&given.kafka_addr, &mut config.kafka.addr),
        (&given.pg_addr, &mut config.postgres.addr),
        (&given.http_addr, &mut config.http.addr),
    ] {
        if flag.is_none() && env.listen(addr).await.is_err() {
            *addr = "127.0.0.1:0".into();
        }
    }
}

async fn serve(env: &log::Env, config: &Config, arguments: &DemoArguments) -> Result<(), Failure> {
    let stop = asked_to_stop();
    tokio::pin!(stop);
    let server = tokio::select! {
        biased;
        asked = &mut stop => return asked,
        server = Server::start(env, config) => server?,
    };
    println!("riverrun ready: {}", server.addresses());
    let shown = async {
        let client = connect(env, &server.addresses().postgres.to_string(), "riverrun").await?;
        for statement in SET_UP {
            println!("\n{statement};");
            query(&client, statement).await?;
        }
        show(env, &client, server.addresses(), arguments.time).await
    };
    let outcome = tokio::select! {
        biased;
        asked = &mut stop => asked,
        error = server.failed() => {
            server.abandon();
            return Err(error.into());
        }
        outcome = shown => outcome,
    };
    server.stop().await?;
    outcome
}

/// Shows the view until the time is over, for ever without one.
async fn show(env: &log::Env, client: &Client, at: &Addresses, time: Option<Duration>) -> Result<(), Failure> {
    let began = env.monotonic();
    let terminal = std::io::stdout().is_terminal();
    println!("\n{}", next_steps(at));
    let mut last = Rows::default();
    let mut drawn = 0;
    while time.is_none_or(|time| env.monotonic() - began < time) {
        let Some((rows, _)) = query(client, SHOWN).await?.pop() else { continue };
        let text = if terminal { redraw(&rows, &mut drawn) } else { changes(&rows, &last) };
        let mut out = std::io::stdout().lock();
        // Whoever reads may have seen enough: the demo then goes on unseen until its time is over.
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
        drop(out);
        last = rows;
        env.sleep(LOOK_EVERY).await;
    }
    Ok(())
}

/// The table anew in the place of the one before.
fn redraw(rows: &Rows, drawn: &mut usize) -> String {
    let table = rows.render(Output::Table);
    let mut text = String::new();
    if *drawn > 0 {
        write!(text, "\x1b[{drawn}A\x1b[J").expect("a string takes everything");
    }
    *drawn = table.lines().count();
    text + &table
}

/// A line for every row that was not there before.
fn changes(rows: &Rows, last: &Rows) -> String {
    let mut text = String::new();
    for row in rows.rows.iter().filter(|row| !last.rows.contains(row)) {
        let cells: Vec<&str> = row.iter().map(|cell| cell.as_deref().unwrap_or("null")).collect();
        writeln!(text, "best_customers: {}", cells.join(" | ")).expect("a string takes everything");
    }
    text
}

fn next_steps(at: &Addresses) -> String {
    let (pg, kafka) = (at.postgres, at.kafka);
    format!(
        "While this runs, try in another terminal:\n\
         \x20 psql -h {} -p {} -d riverrun -c 'SELECT * FROM best_customers ORDER BY spent DESC LIMIT 5'\n\
         \x20 psql -h {} -p {} -d shop -c '\\d public.orders'\n\
         \x20 kcat -b {kafka} -t shop.public.orders -C -o -5 -e\n\
         \x20 kcat -b {kafka} -t best_customers -C -o -5 -e -f '%k %s\\n'\n\
         \x20 riverrun sql --pg-addr {pg} -c \"SELECT status, count(*) FROM shop.public.orders GROUP BY status\"\n\
         \x20 curl -s http://{}/metrics\n",
        pg.ip(),
        pg.port(),
        pg.ip(),
        pg.port(),
        at.http,
    )
}
