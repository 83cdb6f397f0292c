//! [`Words`]: sqlparser's parser with errors in our form and the places of tokens at hand.

use std::sync::Arc;

use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Tokenizer, TokenizerError};

use super::ast::{self, Ident};
use super::{Name, Query};
use crate::error::{Error, Location, Result, byte_at, location_of, sqlstate};

static DIALECT: PostgreSqlDialect = PostgreSqlDialect {};

/// Nested expressions and subqueries deeper than this are refused; the parser recurses.
const DEPTH_MAX: usize = 50;

/// The tokens of a text and how far they are read.
pub struct Words {
    pub parser: Parser<'static>,
    pub source: Arc<str>,
}

impl Words {
    pub fn new(text: &str) -> Result<Self> {
        let tokens = Tokenizer::new(&DIALECT, text).tokenize_with_location().map_err(|e| from_tokenizer(e, text))?;
        let parser = Parser::new(&DIALECT).with_recursion_limit(DEPTH_MAX).with_tokens_with_locations(tokens);
        Ok(Self { parser, source: Arc::from(text) })
    }

    /// Runs one of sqlparser's own productions.
    pub fn run<T>(&mut self, production: impl FnOnce(&mut Parser<'static>) -> Result<T, ParserError>) -> Result<T> {
        production(&mut self.parser).map_err(|e| self.from_parser(e))
    }

    pub fn location(&self) -> Option<Location> {
        location_of(self.parser.peek_token_ref().span)
    }

    /// Whether the next word is `word` (upper case), keyword or not.
    pub fn is(&self, word: &str) -> bool {
        is_word(self.parser.peek_token_ref(), word)
    }

    /// Takes `word` when it is next.
    pub fn take(&mut self, word: &str) -> bool {
        let found = self.is(word);
        if found {
            self.parser.next_token();
        }
        found
    }

    /// Takes all of `words` when they are next, or none.
    pub fn take_all(&mut self, words: &[&str]) -> bool {
        let start = self.parser.index();
        for word in words {
            if !self.take(word) {
                while self.parser.index() > start {
                    self.parser.prev_token();
                }
                return false;
            }
        }
        true
    }

    pub fn expect(&mut self, word: &str) -> Result<()> {
        if self.take(word) { Ok(()) } else { Err(self.unexpected(&format!("{word} was expected"))) }
    }

    pub fn take_token(&mut self, token: &Token) -> bool {
        self.parser.consume_token(token)
    }

    pub fn expect_token(&mut self, token: &Token) -> Result<()> {
        if self.take_token(token) { Ok(()) } else { Err(self.unexpected(&format!("\"{token}\" was expected"))) }
    }

    pub fn at_end(&self) -> bool {
        matches!(self.parser.peek_token_ref().token, Token::EOF | Token::SemiColon)
    }

    /// PostgreSQL's words for a token that does not fit here.
    pub fn unexpected(&self, detail: &str) -> Error {
        let next = self.parser.peek_token_ref();
        syntax_error(&next.token.to_string(), next.token == Token::EOF, location_of(next.span)).detail(detail)
    }

    /// The place of the next token as a byte of the source; its end at the end.
    pub fn byte(&self) -> usize {
        let next = self.parser.peek_token_ref();
        match location_of(next.span) {
            Some(location) if next.token != Token::EOF => byte_at(&self.source, location),
            _ => self.source.len(),
        }
    }

    /// The text from byte `from` to the next token.
    pub fn text_since(&self, from: usize) -> String {
        self.source[from..self.byte()].trim_end().to_string()
    }

    pub fn identifier(&mut self) -> Result<String> {
        let ident = self.run(|p| p.parse_identifier())?;
        Ok(fold(&ident))
    }

    pub fn name(&mut self) -> Result<Name> {
        let location = self.location();
        let name = self.run(|p| p.parse_object_name(false))?;
        name_of(&name, location)
    }

    /// `(a, b, …)`.
    pub fn identifiers(&mut self) -> Result<Vec<String>> {
        self.expect_token(&Token::LParen)?;
        let mut out = vec![self.identifier()?];
        while self.take_token(&Token::Comma) {
            out.push(self.identifier()?);
        }
        self.expect_token(&Token::RParen)?;
        Ok(out)
    }

    pub fn query(&mut self) -> Result<Query> {
        let from = self.byte();
        let ast = self.run(|p| p.parse_query())?;
        Ok(Query { ast, text: self.text_since(from), source: Arc::clone(&self.source) })
    }

    pub fn if_not_exists(&mut self) -> bool {
        self.take_all(&["IF", "NOT", "EXISTS"])
    }

    pub fn if_exists(&mut self) -> bool {
        self.take_all(&["IF", "EXISTS"])
    }

    /// sqlparser writes the place at the end of its message; we take it off again.
    fn from_parser(&self, error: ParserError) -> Error {
        let text = match error {
            ParserError::RecursionLimitExceeded => {
                return Error::new(sqlstate::STATEMENT_TOO_COMPLEX, "the statement is nested too deeply")
                    .detail(format!("limit: {DEPTH_MAX} levels"));
            }
            ParserError::ParserError(text) | ParserError::TokenizerError(text) => text,
        };
        let (text, location) = split_place(&text);
        match text.split_once(", found: ") {
            Some((expected, found)) => {
                let wanted = expected.strip_prefix("Expected: ").unwrap_or(expected);
                syntax_error(found, found == "EOF", location).detail(format!("{wanted} was expected"))
            }
            None => Error::new(sqlstate::SYNTAX_ERROR, text).at(location.or_else(|| self.location())),
        }
    }
}

fn syntax_error(found: &str, at_end: bool, location: Option<Location>) -> Error {
    let message = match at_end {
        true => "syntax error at end of input".to_string(),
        false => format!("syntax error at or near \"{found}\""),
    };
    Error::new(sqlstate::SYNTAX_ERROR, message).at(location)
}

fn from_tokenizer(error: TokenizerError, text: &str) -> Error {
    Error::new(sqlstate::SYNTAX_ERROR, error.message).at(Location::from(error.location)).within(text)
}

/// `"… at Line: 2, Column: 7"` to its text and place.
fn split_place(text: &str) -> (&str, Option<Location>) {
    let parsed = text.rsplit_once(" at Line: ").and_then(|(head, place)| {
        let (line, column) = place.split_once(", Column: ")?;
        Some((head, Location { line: line.parse().ok()?, column: column.parse().ok()? }))
    });
    match parsed {
        Some((head, location)) => (head, Some(location)),
        None => (text, None),
    }
}

fn is_word(token: &TokenWithSpan, word: &str) -> bool {
    match &token.token {
        Token::Word(w) => w.quote_style.is_none() && w.value.eq_ignore_ascii_case(word),
        _ => false,
    }
}

/// PostgreSQL folds what is not quoted.
pub fn fold(ident: &Ident) -> String {
    match ident.quote_style {
        Some(_) => ident.value.clone(),
        None => ident.value.to_lowercase(),
    }
}

pub fn name_of(name: &ast::ObjectName, location: Option<Location>) -> Result<Name> {
    let mut parts = Vec::with_capacity(name.0.len());
    for part in &name.0 {
        match part.as_ident() {
            Some(ident) => parts.push(fold(ident)),
            None => return Err(Error::new(sqlstate::SYNTAX_ERROR, format!("{name} is not a name")).at(location)),
        }
    }
    Ok(Name { parts, location })
}
