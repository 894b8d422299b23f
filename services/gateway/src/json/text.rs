//! JSON as text: strict RFC 8259, one pass, a bound on its depth.

use std::borrow::Cow;

/// How deeply arrays and objects may be nested.
pub const DEPTH_LIMIT: usize = 64;

/// What is not JSON, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Syntax {
    /// The byte.
    pub(crate) at: usize,
    /// What was expected, or what is wrong.
    pub(crate) what: &'static str,
}

/// What a value is, as its first byte tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Token {
    Object,
    Array,
    String,
    Number,
    True,
    False,
    Null,
}

/// A text and how far it was read.
#[derive(Clone, Debug)]
pub(crate) struct Text<'t> {
    text: &'t str,
    at: usize,
    depth: usize,
}

/// A place to go back to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark {
    at: usize,
    depth: usize,
}

impl<'t> Text<'t> {
    /// From its first byte; the whole must be UTF-8.
    pub(crate) fn new(bytes: &'t [u8]) -> Result<Self, Syntax> {
        let text = std::str::from_utf8(bytes).map_err(|error| Syntax {
            at: error.valid_up_to(),
            what: "this is not UTF-8",
        })?;
        Ok(Self {
            text,
            at: 0,
            depth: 0,
        })
    }

    fn wrong(&self, what: &'static str) -> Syntax {
        Syntax { at: self.at, what }
    }

    /// The line and the column of a byte, both from 1.
    pub(crate) fn place(bytes: &[u8], at: usize) -> (usize, usize) {
        let before = &bytes[..at.min(bytes.len())];
        let line_start = before
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |newline| newline + 1);
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        let characters = String::from_utf8_lossy(&before[line_start..]).chars().count();
        (line, 1 + characters)
    }

    /// Where it is now.
    pub(crate) fn mark(&self) -> Mark {
        Mark {
            at: self.at,
            depth: self.depth,
        }
    }

    /// Goes back.
    pub(crate) fn reset(&mut self, mark: Mark) {
        self.at = mark.at;
        self.depth = mark.depth;
    }

    fn byte(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn space(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.byte() {
            self.at += 1;
        }
    }

    /// What the next value is.
    pub(crate) fn peek(&mut self) -> Result<Token, Syntax> {
        self.space();
        match self.byte() {
            Some(b'{') => Ok(Token::Object),
            Some(b'[') => Ok(Token::Array),
            Some(b'"') => Ok(Token::String),
            Some(b'-' | b'0'..=b'9') => Ok(Token::Number),
            Some(b't') => Ok(Token::True),
            Some(b'f') => Ok(Token::False),
            Some(b'n') => Ok(Token::Null),
            Some(_) => Err(self.wrong("expected a JSON value")),
            None => Err(self.wrong("the text ends where a JSON value is expected")),
        }
    }

    /// Whether nothing but space is left.
    pub(crate) fn end(&mut self) -> Result<(), Syntax> {
        self.space();
        match self.byte() {
            None => Ok(()),
            Some(_) => Err(self.wrong("there is more after the JSON value")),
        }
    }

    /// The bracket of an object or array that [`Self::peek`] saw.
    pub(crate) fn open(&mut self) -> Result<(), Syntax> {
        if self.depth == DEPTH_LIMIT {
            return Err(self.wrong("nested more than 64 levels deep"));
        }
        self.depth += 1;
        self.at += 1;
        Ok(())
    }

    /// Whether another element follows in the array; its end is consumed.
    pub(crate) fn item(&mut self, first: bool) -> Result<bool, Syntax> {
        self.next(first, b']', "expected `,` or `]`")
    }

    /// The next key of the object with its colon; the object's end is consumed.
    pub(crate) fn key(&mut self, first: bool) -> Result<Option<Cow<'t, str>>, Syntax> {
        if !self.next(first, b'}', "expected `,` or `}`")? {
            return Ok(None);
        }
        self.space();
        if self.byte() != Some(b'"') {
            return Err(self.wrong("expected a key in double quotes"));
        }
        let key = self.string()?;
        self.space();
        if self.byte() != Some(b':') {
            return Err(self.wrong("expected `:`"));
        }
        self.at += 1;
        Ok(Some(key))
    }

    fn next(&mut self, first: bool, end: u8, what: &'static str) -> Result<bool, Syntax> {
        self.space();
        match self.byte() {
            Some(byte) if byte == end => {
                self.at += 1;
                self.depth -= 1;
                Ok(false)
            }
            Some(b',') if !first => {
                self.at += 1;
                self.space();
                if self.byte() == Some(end) {
                    return Err(self.wrong("a comma without anything after it"));
                }
                Ok(true)
            }
            Some(_) if first => Ok(true),
            _ => Err(self.wrong(what)),
        }
    }

    /// The word that [`Self::peek`] saw.
    pub(crate) fn word(&mut self, word: &'static str) -> Result<(), Syntax> {
        if !self.text.as_bytes()[self.at..].starts_with(word.as_bytes()) {
            return Err(self.wrong("expected `true`, `false` or `null`"));
        }
        self.at += word.len();
        match self.byte() {
            Some(b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_') => {
                Err(self.wrong("expected `true`, `false` or `null`"))
            }
            _ => Ok(()),
        }
    }

    /// The number that [`Self::peek`] saw, as it is written.
    pub(crate) fn number(&mut self) -> Result<&'t str, Syntax> {
        let rest = &self.text[self.at..];
        let length = number_length(rest.as_bytes()).ok_or_else(|| self.wrong("this is no JSON number"))?;
        self.at += length;
        match self.byte() {
            Some(b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'.' | b'+' | b'-') => {
                Err(self.wrong("this is no JSON number"))
            }
            _ => Ok(&rest[..length]),
        }
    }

    /// The string that [`Self::peek`] saw, unescaped.
    pub(crate) fn string(&mut self) -> Result<Cow<'t, str>, Syntax> {
        self.at += 1;
        let start = self.at;
        let plain = self.run()?;
        if plain {
            return Ok(Cow::Borrowed(&self.text[start..self.at - 1]));
        }
        let mut value = String::with_capacity(self.at - start + 16);
        value.push_str(&self.text[start..self.at]);
        loop {
            value.push(self.escape()?);
            let from = self.at;
            if self.run()? {
                value.push_str(&self.text[from..self.at - 1]);
                return Ok(Cow::Owned(value));
            }
            value.push_str(&self.text[from..self.at]);
        }
    }

    /// Goes on to the closing quote, which it consumes, or to a backslash, which it does not.
    fn run(&mut self) -> Result<bool, Syntax> {
        let bytes = self.text.as_bytes();
        loop {
            match bytes.get(self.at) {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(true);
                }
                Some(b'\\') => return Ok(false),
                Some(0x00..=0x1f) => return Err(self.wrong("a control character in a string is not escaped")),
                Some(_) => self.at += 1,
                None => return Err(self.wrong("the text ends inside a string")),
            }
        }
    }

    fn escape(&mut self) -> Result<char, Syntax> {
        self.at += 1;
        let escaped = self.byte();
        self.at += 1;
        Ok(match escaped {
            Some(b'"') => '"',
            Some(b'\\') => '\\',
            Some(b'/') => '/',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => return self.unicode(),
            _ => {
                self.at -= 1;
                return Err(self.wrong("no such escape"));
            }
        })
    }

    fn unicode(&mut self) -> Result<char, Syntax> {
        let high = self.hex()?;
        let code = match high {
            0xd800..=0xdbff => {
                if !self.text.as_bytes()[self.at..].starts_with(b"\\u") {
                    return Err(self.wrong("half of a surrogate pair"));
                }
                self.at += 2;
                let low = self.hex()?;
                if !(0xdc00..=0xdfff).contains(&low) {
                    return Err(self.wrong("half of a surrogate pair"));
                }
                0x1_0000 + ((high - 0xd800) << 10) + (low - 0xdc00)
            }
            other => other,
        };
        char::from_u32(code).ok_or_else(|| self.wrong("half of a surrogate pair"))
    }

    fn hex(&mut self) -> Result<u32, Syntax> {
        let digits = self.text.as_bytes().get(self.at..self.at + 4);
        let mut value = 0;
        for digit in digits.ok_or_else(|| self.wrong("expected four hexadecimal digits"))? {
            let digit = char::from(*digit).to_digit(16);
            value = value * 16 + digit.ok_or_else(|| self.wrong("expected four hexadecimal digits"))?;
        }
        self.at += 4;
        Ok(value)
    }

    /// Passes over a value, which must be JSON too.
    pub(crate) fn skip(&mut self) -> Result<(), Syntax> {
        match self.peek()? {
            Token::Object => {
                self.open()?;
                let mut first = true;
                while self.key(first)?.is_some() {
                    first = false;
                    self.skip()?;
                }
                Ok(())
            }
            Token::Array => {
                self.open()?;
                let mut first = true;
                while self.item(first)? {
                    first = false;
                    self.skip()?;
                }
                Ok(())
            }
            Token::String => self.string().map(drop),
            Token::Number => self.number().map(drop),
            Token::True => self.word("true"),
            Token::False => self.word("false"),
            Token::Null => self.word("null"),
        }
    }
}

/// How many bytes of `text` are a JSON number.
pub(crate) fn number_length(text: &[u8]) -> Option<usize> {
    let digits = |from: usize| {
        text[from..]
            .iter()
            .take_while(|byte| byte.is_ascii_digit())
            .count()
    };
    let mut at = usize::from(text.first() == Some(&b'-'));
    let whole = digits(at);
    if whole == 0 || (whole > 1 && text[at] == b'0') {
        return None;
    }
    at += whole;
    if text.get(at) == Some(&b'.') {
        let fraction = digits(at + 1);
        if fraction == 0 {
            return None;
        }
        at += 1 + fraction;
    }
    if let Some(b'e' | b'E') = text.get(at) {
        at += 1;
        at += usize::from(matches!(text.get(at), Some(b'+' | b'-')));
        let exponent = digits(at);
        if exponent == 0 {
            return None;
        }
        at += exponent;
    }
    Some(at)
}
