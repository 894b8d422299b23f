//! A statement's text in pieces, as a server takes it apart.

/// A piece of a statement. Keywords are bare words; anything in quotes is not a keyword.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Token {
    Word(String),
    Quoted(String),
    Mark(char),
}

/// More than a statement that drops ten thousand tables has.
pub(super) const TOKENS_MAX: usize = 100_000;

/// Within which quotes `\` escapes what follows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Escapes {
    single: bool,
    double: bool,
}

impl Default for Escapes {
    /// As servers do unless they are told otherwise.
    fn default() -> Self {
        Self {
            single: true,
            double: true,
        }
    }
}

impl Escapes {
    /// Every way in which a server reads.
    pub(super) const EVERY: [Self; 3] = {
        let (yes, no) = (true, false);
        [
            Self {
                single: yes,
                double: yes,
            },
            Self {
                single: no,
                double: no,
            },
            Self {
                single: yes,
                double: no,
            },
        ]
    };

    /// By a statement's `sql_mode`, whose bits are the same in MySQL and MariaDB (`sql/system_variables.h`, `sql/sql_class.h`).
    pub(super) fn of(sql_mode: u64) -> Self {
        const ANSI_QUOTES: u64 = 1 << 2;
        const NO_BACKSLASH_ESCAPES: u64 = 1 << 20;
        let single = sql_mode & NO_BACKSLASH_ESCAPES == 0;
        Self {
            single,
            // Then it is a name that stands in them.
            double: single && sql_mode & ANSI_QUOTES == 0,
        }
    }

    fn within(self, quote: char) -> bool {
        match quote {
            '\'' => self.single,
            '"' => self.double,
            _ => false,
        }
    }
}

/// How far a text was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// To its end.
    Whole,
    /// Up to a quote or a comment that does not end: no server reads it so.
    Open,
    /// It has more tokens.
    More,
}

/// A statement in pieces.
pub(super) struct Pieces {
    pub(super) tokens: Vec<Token>,
    pub(super) end: End,
}

/// Tokens of a statement, at most `most`; comments are left out, but the content of `/*! … */` and `/*M! … */` counts.
pub(super) fn read(text: &str, most: usize, escapes: Escapes) -> Pieces {
    let mut tokens = Vec::new();
    let mut rest = text;
    let end = loop {
        // As servers have it: other spaces of Unicode are letters of names.
        rest = rest.trim_start_matches(|c: char| c.is_ascii_whitespace() || c == '\x0b');
        let Some(first) = rest.chars().next() else {
            break End::Whole;
        };
        if let Some(comment) = rest.strip_prefix("/*") {
            if let Some(inner) = comment.strip_prefix('!').or_else(|| comment.strip_prefix("M!")) {
                rest = inner.trim_start_matches(|c: char| c.is_ascii_digit());
            } else if let Some((_, after)) = comment.split_once("*/") {
                rest = after;
            } else {
                break End::Open;
            }
        } else if let Some(after) = rest.strip_prefix("*/") {
            rest = after;
        } else if is_comment(rest) {
            rest = rest.split_once('\n').map_or("", |(_, after)| after);
        } else if tokens.len() >= most {
            break End::More;
        } else if matches!(first, '`' | '"' | '\'') {
            let (content, after) = quoted(&rest[1..], first, escapes.within(first));
            tokens.push(Token::Quoted(content));
            match after {
                Some(after) => rest = after,
                None => break End::Open,
            }
        } else if is_word(first) {
            let end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
            tokens.push(Token::Word(rest[..end].to_owned()));
            rest = &rest[end..];
        } else {
            tokens.push(Token::Mark(first));
            rest = &rest[first.len_utf8()..];
        }
    };
    Pieces { tokens, end }
}

/// Whether a comment begins here that goes to the end of the line.
fn is_comment(text: &str) -> bool {
    let dashes = text.strip_prefix("--");
    text.starts_with('#')
        || dashes.is_some_and(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace))
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '$' || !c.is_ascii()
}

/// Up to the closing quote, a doubled quote standing for one; and what follows, if there is one.
fn quoted(text: &str, quote: char, escapes: bool) -> (String, Option<&str>) {
    let mut content = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' if escapes => content.extend(chars.next().map(|(_, escaped)| escaped)),
            _ if c == quote => {
                let after = &text[at + 1..];
                if !after.starts_with(quote) {
                    return (content, Some(after));
                }
                content.push(quote);
                chars.next();
            }
            _ => content.push(c),
        }
    }
    (content, None)
}

/// Walks tokens.
pub(super) struct Walk<'t>(pub(super) &'t [Token]);

impl Walk<'_> {
    pub(super) fn word(&self, nth: usize) -> &str {
        match self.0.get(nth) {
            Some(Token::Word(word)) => word,
            _ => "",
        }
    }

    pub(super) fn skip(&mut self, words: &[&str]) -> bool {
        let is = words.iter().any(|word| self.word(0).eq_ignore_ascii_case(word));
        if is {
            self.0 = &self.0[1..];
        }
        is
    }

    pub(super) fn skip_all(&mut self, words: &[&str]) {
        while self.skip(words) {}
    }

    pub(super) fn has_settings(&self) -> bool {
        self.word(0).eq_ignore_ascii_case("SET") && self.word(1).eq_ignore_ascii_case("STATEMENT")
    }

    /// MariaDB: `SET STATEMENT name = value, … FOR` before the statement itself.
    pub(super) fn skip_settings(&mut self) {
        while self.has_settings() {
            while !self.0.is_empty() && !self.skip(&["FOR"]) {
                self.0 = &self.0[1..];
            }
        }
    }

    /// MariaDB: `WAIT n` or `NOWAIT` after a table's name.
    pub(super) fn skip_wait(&mut self) {
        if self.skip(&["WAIT"]) {
            self.0 = self.0.get(1..).unwrap_or_default();
        }
        self.skip(&["NOWAIT"]);
    }

    /// `table` or `schema.table`.
    pub(super) fn name(&mut self, default: &str) -> Option<(String, String)> {
        let first = self.identifier()?;
        if self.0.first() != Some(&Token::Mark('.')) {
            return Some((default.to_owned(), first));
        }
        self.0 = &self.0[1..];
        Some((first, self.identifier()?))
    }

    pub(super) fn identifier(&mut self) -> Option<String> {
        let (Token::Word(text) | Token::Quoted(text)) = self.0.first()? else {
            return None;
        };
        self.0 = &self.0[1..];
        Some(text.clone())
    }

    pub(super) fn mark(&mut self, mark: char) -> bool {
        let is = self.0.first() == Some(&Token::Mark(mark));
        if is {
            self.0 = &self.0[1..];
        }
        is
    }
}
