//! Which statement it is, and the ones without a body of their own: SHOW, SET, DROP, INSERT, transactions.

use std::sync::Arc;

use datafusion::sql::sqlparser::tokenizer::Token;

use super::words::Words;
use super::{Drop, DropKind, Insert, Parsed, Query, Set, Show, Statement, TEXT_BYTES_MAX, ast, declare, transaction};
use crate::error::{Error, Result, sqlstate};

pub fn parse_all(text: &str) -> Result<Vec<Parsed>> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(Error::new(sqlstate::STATEMENT_TOO_COMPLEX, "the text is too long")
            .detail(format!("{} bytes, the limit is {TEXT_BYTES_MAX}", text.len())));
    }
    let mut words = Words::new(text)?;
    let mut out = Vec::new();
    loop {
        while words.take_token(&Token::SemiColon) {}
        if words.parser.peek_token_ref().token == Token::EOF {
            return Ok(out);
        }
        out.push(parse_one(&mut words).map_err(|e| e.within(text))?);
    }
}

pub fn parse_type(text: &str) -> Result<ast::DataType> {
    let mut words = Words::new(text)?;
    let out = words.run(|p| p.parse_data_type()).map_err(|e| e.within(text))?;
    match words.at_end() {
        true => Ok(out),
        false => Err(words.unexpected("the end of the type was expected").within(text)),
    }
}

fn parse_one(words: &mut Words) -> Result<Parsed> {
    let from = words.byte();
    let statement = parse_statement(words)?;
    if !words.at_end() {
        return Err(words.unexpected("the end of the statement was expected"));
    }
    Ok(Parsed { statement, text: words.text_since(from), source: Arc::clone(&words.source) })
}

fn parse_statement(words: &mut Words) -> Result<Statement> {
    let starts_query = words.parser.peek_token_ref().token == Token::LParen
        || ["SELECT", "VALUES", "WITH", "TABLE"].iter().any(|w| words.is(w));
    if starts_query {
        return words.query().map(Statement::Query);
    }
    let at = words.location();
    let Token::Word(word) = words.parser.peek_token_ref().token.clone() else {
        return Err(words.unexpected("a statement was expected"));
    };
    let verb = word.value.to_uppercase();
    words.parser.next_token();
    match verb.as_str() {
        "CREATE" => declare::create(words, at),
        "DROP" => drop(words),
        "INSERT" => insert(words),
        "EXPLAIN" => explain(words),
        "SHOW" => show(words),
        "SET" => set(words),
        "RESET" => reset(words),
        "BEGIN" => transaction::begin(words),
        "START" => transaction::start(words),
        "COMMIT" | "END" => transaction::end(words, Statement::Commit),
        "ROLLBACK" | "ABORT" => transaction::end(words, Statement::Rollback),
        "DISCARD" => skip_to_end(words, Statement::Discard),
        "DEALLOCATE" => deallocate(words),
        "UNLISTEN" => skip_to_end(words, Statement::Nothing("UNLISTEN")),
        "CLOSE" => skip_to_end(words, Statement::Nothing("CLOSE CURSOR")),
        _ => Err(refused(&verb, words).at(at)),
    }
}

/// Statements that PostgreSQL or others know and this program does not serve, and what serves instead.
const REFUSED: &[(&str, &str)] = &[
    ("UPDATE", "insert a row with the same primary key, or change the row in the source database"),
    ("DELETE", "delete the row in the source database"),
    ("TRUNCATE", "a table's rows are the records of its topic: create a table over another topic"),
    ("MERGE", "insert rows with their primary keys: an upsert table keeps the last of each"),
    ("ALTER", "drop the object and create it again"),
    ("SUBSCRIBE", "read the view's topic with any Kafka client, or poll it with SELECT"),
    ("COPY", "use INSERT, or write to the topic with any Kafka client"),
    ("GRANT", ""),
    ("REVOKE", ""),
    ("COMMENT", ""),
    ("LISTEN", ""),
    ("NOTIFY", ""),
    ("DECLARE", ""),
    ("FETCH", ""),
    ("MOVE", ""),
    ("PREPARE", "use the extended protocol's prepared statements"),
    ("EXECUTE", "use the extended protocol's prepared statements"),
    ("SAVEPOINT", ""),
    ("RELEASE", ""),
    ("LOCK", ""),
    ("VACUUM", ""),
    ("ANALYZE", ""),
    ("REFRESH", "views are always up to date"),
    ("CALL", ""),
    ("DO", ""),
    ("USE", "connect to the database: psql -d name"),
];

fn refused(verb: &str, words: &mut Words) -> Error {
    let Some((name, hint)) = REFUSED.iter().find(|(name, _)| *name == verb) else {
        words.parser.prev_token();
        return words.unexpected("a statement was expected");
    };
    let error = Error::unsupported(name);
    if hint.is_empty() { error } else { error.hint(*hint) }
}

fn skip_to_end(words: &mut Words, statement: Statement) -> Result<Statement> {
    while !words.at_end() {
        words.parser.next_token();
    }
    Ok(statement)
}

fn deallocate(words: &mut Words) -> Result<Statement> {
    words.take("PREPARE");
    match words.take("ALL") {
        true => Ok(Statement::Deallocate(None)),
        false => words.identifier().map(|name| Statement::Deallocate(Some(name))),
    }
}

fn drop(words: &mut Words) -> Result<Statement> {
    let at = words.location();
    let kind = if words.take("SOURCE") {
        DropKind::Source
    } else if words.take("TABLE") {
        DropKind::Table
    } else if words.take_all(&["MATERIALIZED", "VIEW"]) || words.take("VIEW") {
        DropKind::View
    } else if words.take("SINK") {
        DropKind::Sink
    } else {
        let what = words.parser.peek_token_ref().token.to_string().to_uppercase();
        return Err(Error::unsupported(format!("DROP {what}"))
            .at(at)
            .hint("SOURCE, TABLE, MATERIALIZED VIEW and SINK can be dropped"));
    };
    let if_exists = words.if_exists();
    let mut names = vec![words.name()?];
    while words.take_token(&Token::Comma) {
        names.push(words.name()?);
    }
    words.take("RESTRICT");
    let at = words.location();
    if words.take("CASCADE") {
        return Err(Error::unsupported("DROP … CASCADE").at(at).hint("drop the dependents first"));
    }
    Ok(Statement::Drop(Drop { kind, names, if_exists }))
}

fn insert(words: &mut Words) -> Result<Statement> {
    words.expect("INTO")?;
    let table = words.name()?;
    let starts_columns = words.parser.peek_token_ref().token == Token::LParen
        && !["SELECT", "VALUES", "WITH"].iter().any(|w| {
            matches!(&words.parser.peek_nth_token_ref(1).token,
                Token::Word(word) if word.quote_style.is_none() && word.value.eq_ignore_ascii_case(w))
        });
    let columns = if starts_columns { words.identifiers()? } else { Vec::new() };
    let at = words.location();
    if words.take("DEFAULT") {
        return Err(Error::unsupported("INSERT … DEFAULT VALUES").at(at));
    }
    let mut query = words.query()?;
    default_is_null(&mut query);
    let at = words.location();
    if words.is("RETURNING") {
        return Err(Error::unsupported("INSERT … RETURNING").at(at));
    }
    if words.is("ON") {
        return Err(Error::unsupported("INSERT … ON CONFLICT")
            .at(at)
            .hint("a table with a PRIMARY KEY keeps the last row of each key"));
    }
    Ok(Statement::Insert(Insert { table, columns, query }))
}

/// No column has a default of its own: `DEFAULT` in VALUES is NULL.
fn default_is_null(query: &mut Query) {
    let ast::SetExpr::Values(values) = query.ast.body.as_mut() else { return };
    for expr in values.rows.iter_mut().flat_map(|row| row.content.iter_mut()) {
        let is_default = matches!(expr, ast::Expr::Identifier(word)
            if word.quote_style.is_none() && word.value.eq_ignore_ascii_case("default"));
        if is_default {
            *expr = ast::Expr::Value(ast::Value::Null.into());
        }
    }
}

fn explain(words: &mut Words) -> Result<Statement> {
    let at = words.location();
    if words.is("ANALYZE") || words.is("ANALYSE") {
        return Err(Error::unsupported("EXPLAIN ANALYZE").at(at));
    }
    words.take("VERBOSE");
    if words.parser.peek_token_ref().token == Token::LParen && !starts_query_in_parentheses(words) {
        return Err(Error::unsupported("an option list of EXPLAIN").at(at));
    }
    let inner = parse_one(words)?;
    match &inner.statement {
        Statement::Query(_) | Statement::CreateView(_) => Ok(Statement::Explain(Box::new(inner))),
        _ => Err(Error::unsupported("EXPLAIN of this statement")
            .at(at)
            .hint("EXPLAIN takes a query or a CREATE MATERIALIZED VIEW")),
    }
}

fn starts_query_in_parentheses(words: &Words) -> bool {
    let mut n = 1;
    while words.parser.peek_nth_token_ref(n).token == Token::LParen {
        n += 1;
    }
    matches!(&words.parser.peek_nth_token_ref(n).token, Token::Word(w)
        if ["SELECT", "VALUES", "WITH", "TABLE"].iter().any(|q| w.value.eq_ignore_ascii_case(q)))
}

fn show(words: &mut Words) -> Result<Statement> {
    let lists = [
        ("SOURCES", Show::Sources),
        ("TABLES", Show::Tables),
        ("VIEWS", Show::Views),
        ("SINKS", Show::Sinks),
        ("JOBS", Show::Jobs),
        ("TOPICS", Show::Topics),
        ("ALL", Show::AllSettings),
    ];
    for (word, show) in lists {
        if words.take(word) {
            return Ok(Statement::Show(show));
        }
    }
    if words.take_all(&["MATERIALIZED", "VIEWS"]) {
        return Ok(Statement::Show(Show::Views));
    }
    if words.take_all(&["TIME", "ZONE"]) {
        return Ok(Statement::Show(Show::Setting("timezone".into())));
    }
    if words.take_all(&["TRANSACTION", "ISOLATION", "LEVEL"]) {
        return Ok(Statement::Show(Show::Setting("transaction_isolation".into())));
    }
    let name = words.name()?;
    Ok(Statement::Show(Show::Setting(name.to_string().to_lowercase())))
}

fn set(words: &mut Words) -> Result<Statement> {
    if words.take_all(&["SESSION", "CHARACTERISTICS"]) {
        return transaction::set(words, true);
    }
    let local = words.take("LOCAL");
    if !local {
        words.take("SESSION");
    }
    if words.take("TRANSACTION") {
        return transaction::set(words, false);
    }
    let name = if words.take_all(&["TIME", "ZONE"]) {
        "timezone".to_string()
    } else if words.take("NAMES") {
        "client_encoding".to_string()
    } else {
        let name = words.name()?.to_string().to_lowercase();
        if !words.take_token(&Token::Eq) && !words.take("TO") {
            return Err(words.unexpected("\"=\" or TO was expected"));
        }
        name
    };
    let value = setting_value(words)?;
    Ok(Statement::Set(Set::Setting { name, value, local }))
}

/// `DEFAULT` is `None`; a list is joined by `", "`.
fn setting_value(words: &mut Words) -> Result<Option<String>> {
    if words.take("DEFAULT") {
        return Ok(None);
    }
    let mut parts = Vec::new();
    loop {
        let next = words.parser.next_token();
        let text = match next.token {
            Token::Word(w) => w.value,
            Token::SingleQuotedString(s) => s,
            Token::Number(n, _) => n,
            Token::Minus => format!("-{}", words.parser.next_token().token),
            Token::Plus => words.parser.next_token().token.to_string(),
            _ => {
                words.parser.prev_token();
                return Err(words.unexpected("a value was expected"));
            }
        };
        parts.push(text);
        if !words.take_token(&Token::Comma) {
            return Ok(Some(parts.join(", ")));
        }
    }
}

fn reset(words: &mut Words) -> Result<Statement> {
    if words.take("ALL") {
        return Ok(Statement::Set(Set::ResetAll));
    }
    let name = match words.take_all(&["TIME", "ZONE"]) {
        true => "timezone".to_string(),
        false => words.name()?.to_string().to_lowercase(),
    };
    Ok(Statement::Set(Set::Setting { name, value: None, local: false }))
}

impl Query {
    /// A query made by the program rather than read from a text.
    pub fn of(ast: Box<ast::Query>) -> Self {
        let text = ast.to_string();
        Self { ast, source: Arc::from(text.as_str()), text }
    }
}
