//! CREATE SOURCE, TABLE, MATERIALIZED VIEW and SINK.

use datafusion::sql::sqlparser::tokenizer::Token;

use super::words::Words;
use super::{ColumnDef, CreateSink, CreateSource, CreateTable, CreateView, Options, Statement};
use crate::error::{Error, Location, Result, sqlstate};

pub fn create(words: &mut Words, at: Option<Location>) -> Result<Statement> {
    if words.is("OR") {
        return Err(Error::unsupported("CREATE OR REPLACE").at(at).hint("drop the object first"));
    }
    let at = words.location().or(at);
    if words.take("SOURCE") {
        return source(words);
    }
    if words.take("TABLE") {
        return table(words);
    }
    if words.take_all(&["MATERIALIZED", "VIEW"]) {
        return view(words);
    }
    if words.take("SINK") {
        return sink(words);
    }
    let what = words.parser.peek_token_ref().token.to_string().to_uppercase();
    let error = Error::unsupported(format!("CREATE {what}")).at(at);
    Err(match what.as_str() {
        "VIEW" => error.hint("use CREATE MATERIALIZED VIEW: it is kept up to date"),
        "TEMP" | "TEMPORARY" | "UNLOGGED" => error.hint("tables are topics of the log: use CREATE TABLE"),
        _ => error.hint("SOURCE, TABLE, MATERIALIZED VIEW and SINK can be created"),
    })
}

fn source(words: &mut Words) -> Result<Statement> {
    let if_not_exists = words.if_not_exists();
    let name = words.name()?;
    let options = options(words)?;
    Ok(Statement::CreateSource(CreateSource { name, if_not_exists, options }))
}

fn sink(words: &mut Words) -> Result<Statement> {
    let if_not_exists = words.if_not_exists();
    let name = words.name()?;
    words.expect("FROM")?;
    let from = words.name()?;
    let options = options(words)?;
    Ok(Statement::CreateSink(CreateSink { name, if_not_exists, from, options }))
}

fn view(words: &mut Words) -> Result<Statement> {
    let if_not_exists = words.if_not_exists();
    let name = words.name()?;
    let columns = match words.parser.peek_token_ref().token {
        Token::LParen => words.identifiers()?,
        _ => Vec::new(),
    };
    let options = options(words)?;
    words.expect("AS")?;
    let query = words.query()?;
    let at = words.location();
    if words.is("EMIT") {
        return Err(Error::unsupported("EMIT").at(at).hint("a view shows every change of its inputs at once"));
    }
    if words.take("WITH") {
        let at_no = words.location();
        if words.take("NO") {
            return Err(Error::unsupported("WITH NO DATA").at(at_no));
        }
        words.expect("DATA")?;
    }
    Ok(Statement::CreateView(CreateView { name, if_not_exists, columns, options, query }))
}

fn table(words: &mut Words) -> Result<Statement> {
    let if_not_exists = words.if_not_exists();
    let name = words.name()?;
    let mut out =
        CreateTable { name, if_not_exists, columns: Vec::new(), primary_key: Vec::new(), options: Options::default() };
    if words.take_token(&Token::LParen) && !words.take_token(&Token::RParen) {
        loop {
            element(words, &mut out)?;
            if !words.take_token(&Token::Comma) {
                break;
            }
        }
        words.expect_token(&Token::RParen)?;
    }
    let at = words.location();
    if words.is("AS") {
        return Err(Error::unsupported("CREATE TABLE … AS")
            .at(at)
            .hint("use CREATE MATERIALIZED VIEW, or INSERT INTO … SELECT"));
    }
    if words.is("INHERITS") || words.is("PARTITION") {
        return Err(Error::unsupported(format!("CREATE TABLE … {}", words.parser.peek_token_ref().token)).at(at));
    }
    out.options = options(words)?;
    check_columns(&out)?;
    Ok(Statement::CreateTable(out))
}

fn check_columns(table: &CreateTable) -> Result<()> {
    for (i, column) in table.columns.iter().enumerate() {
        if table.columns[..i].iter().any(|c| c.name == column.name) {
            let message = format!("column \"{}\" specified more than once", column.name);
            return Err(Error::new(sqlstate::DUPLICATE_COLUMN, message).at(column.location));
        }
    }
    for (i, name) in table.primary_key.iter().enumerate() {
        if !table.columns.iter().any(|c| &c.name == name) {
            let message = format!("column \"{name}\" named in key does not exist");
            return Err(Error::new(sqlstate::UNDEFINED_COLUMN, message).at(table.name.location));
        }
        if table.primary_key[..i].contains(name) {
            let message = format!("column \"{name}\" appears twice in primary key constraint");
            return Err(Error::new(sqlstate::DUPLICATE_COLUMN, message).at(table.name.location));
        }
    }
    Ok(())
}

/// A column, or a constraint of the table.
fn element(words: &mut Words, table: &mut CreateTable) -> Result<()> {
    let at = words.location();
    if words.take("WATERMARK") {
        return Err(Error::unsupported("WATERMARK")
            .at(at)
            .hint("leave the WATERMARK clause out: rows are taken in the order of the log"));
    }
    if words.take("CONSTRAINT") {
        words.identifier()?;
    }
    if words.take_all(&["PRIMARY", "KEY"]) {
        let columns = words.identifiers()?;
        return set_key(table, columns, at);
    }
    for constraint in ["UNIQUE", "CHECK", "FOREIGN", "EXCLUDE", "LIKE"] {
        if words.is(constraint) {
            return Err(Error::unsupported(constraint).at(at).hint("PRIMARY KEY is the constraint a table may have"));
        }
    }
    let name = words.identifier()?;
    let sql_type = words.run(|p| p.parse_data_type())?;
    let mut column = ColumnDef { name, sql_type, not_null: false, location: at };
    loop {
        let at = words.location();
        if words.take_all(&["NOT", "NULL"]) {
            column.not_null = true;
        } else if words.take("NULL") {
            column.not_null = false;
        } else if words.take_all(&["PRIMARY", "KEY"]) {
            set_key(table, vec![column.name.clone()], at)?;
        } else if matches!(words.parser.peek_token_ref().token, Token::Comma | Token::RParen) {
            break;
        } else {
            for constraint in ["DEFAULT", "UNIQUE", "CHECK", "REFERENCES", "GENERATED", "COLLATE", "METADATA", "AS"] {
                if words.is(constraint) {
                    return Err(Error::unsupported(format!("{constraint} of a column")).at(at));
                }
            }
            return Err(words.unexpected("\",\" or \")\" was expected"));
        }
    }
    table.columns.push(column);
    Ok(())
}

fn set_key(table: &mut CreateTable, columns: Vec<String>, at: Option<Location>) -> Result<()> {
    if !table.primary_key.is_empty() {
        let message = format!("multiple primary keys for table \"{}\" are not allowed", table.name);
        return Err(Error::new(sqlstate::INVALID_TABLE_DEFINITION, message).at(at));
    }
    table.primary_key = columns;
    Ok(())
}

/// `WITH (name = value, …)`, or nothing. Names may hold dots (Debezium's do).
fn options(words: &mut Words) -> Result<Options> {
    let mut out = Options::default();
    if !words.take("WITH") {
        return Ok(out);
    }
    words.expect_token(&Token::LParen)?;
    if words.take_token(&Token::RParen) {
        return Ok(out);
    }
    loop {
        let at = words.location();
        let name = option_name(words)?;
        words.expect_token(&Token::Eq)?;
        let value = option_value(words)?;
        out.1.extend(at.map(|at| (name.clone(), at)));
        if out.0.insert(name.clone(), value).is_some() {
            return Err(Error::new(sqlstate::SYNTAX_ERROR, format!("option \"{name}\" given twice")).at(at));
        }
        if !words.take_token(&Token::Comma) {
            break;
        }
    }
    words.expect_token(&Token::RParen)?;
    Ok(out)
}

fn option_name(words: &mut Words) -> Result<String> {
    let mut name = String::new();
    loop {
        match words.parser.next_token().token {
            Token::Word(w) if w.quote_style.is_some() => name.push_str(&w.value),
            Token::Word(w) => name.push_str(&w.value.to_lowercase()),
            Token::SingleQuotedString(s) if name.is_empty() => name.push_str(&s),
            _ => {
                words.parser.prev_token();
                return Err(words.unexpected("the name of an option was expected"));
            }
        }
        if !words.take_token(&Token::Period) {
            return Ok(name);
        }
        name.push('.');
    }
}

fn option_value(words: &mut Words) -> Result<String> {
    let minus = words.take_token(&Token::Minus);
    match words.parser.next_token().token {
        Token::Number(n, _) if minus => Ok(format!("-{n}")),
        Token::Number(n, _) => Ok(n),
        Token::SingleQuotedString(s) | Token::EscapedStringLiteral(s) if !minus => Ok(s),
        Token::Word(w) if !minus && w.quote_style.is_some() => Ok(w.value),
        Token::Word(w) if !minus => Ok(w.value.to_lowercase()),
        Token::LParen if !minus => list_value(words),
        _ => {
            words.parser.prev_token();
            Err(words.unexpected("a value was expected").hint("put text in single quotes: name = 'value'"))
        }
    }
}

/// `key = (a, b)` means the same as `key = 'a,b'`.
fn list_value(words: &mut Words) -> Result<String> {
    let mut parts = vec![option_value(words)?];
    while words.take_token(&Token::Comma) {
        parts.push(option_value(words)?);
    }
    words.expect_token(&Token::RParen)?;
    Ok(parts.join(","))
}
