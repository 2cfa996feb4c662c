//! As much JSON as the protocol needs: no fractions, no true and false, no escapes but the simplest.

use std::fmt::{self, Display};

/// What stands in a message that should not, or does not and should; the text says it.
#[derive(Debug)]
pub struct Wrong(pub String);

impl Display for Wrong {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(&self.0)
    }
}

pub fn wrong<T>(says: impl Into<String>) -> Result<T, Wrong> {
    Err(Wrong(says.into()))
}

#[derive(Debug)]
pub enum Value {
    Null,
    Number(i64),
    Text(String),
    List(Vec<Value>),
    Object(Vec<(String, Value)>),
}

impl Value {
    /// The value under a key of an object.
    pub fn at(&self, key: &str) -> Result<&Value, Wrong> {
        if let Value::Object(pairs) = self {
            if let Some((_, value)) = pairs.iter().find(|(name, _)| name == key) {
                return Ok(value);
            }
        }
        wrong(format!("no key `{key}`"))
    }

    pub fn text(&self) -> Result<&str, Wrong> {
        match self {
            Value::Text(text) => Ok(text),
            other => wrong(format!("{other:?} is no string")),
        }
    }

    pub fn list(&self) -> Result<&[Value], Wrong> {
        match self {
            Value::List(values) => Ok(values),
            other => wrong(format!("{other:?} is no list")),
        }
    }

    /// A decimal number, 0 to `most`.
    pub fn number(&self, most: i64) -> Result<usize, Wrong> {
        match self {
            Value::Number(number) if (0..=most).contains(number) => Ok(*number as usize),
            other => wrong(format!("{other:?} is no number 0-{most}")),
        }
    }

    /// A hexadecimal string of at most so many bits.
    pub fn hex(&self, bits: u32) -> Result<u64, Wrong> {
        let text = self.text()?;
        let digits = text.strip_prefix("0x").unwrap_or("");
        match u64::from_str_radix(digits, 16) {
            Ok(number) if bits == 64 || number >> bits == 0 => Ok(number),
            _ => wrong(format!("`{text}` is no hexadecimal string of {bits} bits")),
        }
    }

    /// A list of pairs of hexadecimal strings.
    pub fn pairs(&self, first: u32, second: u32) -> Result<Vec<(u64, u64)>, Wrong> {
        let pair = |value: &Value| match value.list()? {
            [one, other] => Ok((one.hex(first)?, other.hex(second)?)),
            _ => wrong("no pair"),
        };
        self.list()?.iter().map(pair).collect()
    }
}

const MOST_DEPTH: usize = 64;

/// Read one line.
pub fn parse(line: &str) -> Result<Value, Wrong> {
    let mut reader = Reader {
        bytes: line.as_bytes(),
        at: 0,
        depth: 0,
    };
    let value = reader.value()?;
    match reader.next() {
        None => Ok(value),
        Some(_) => reader.stop("the end"),
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    depth: usize,
}

impl Reader<'_> {
    fn next(&mut self) -> Option<u8> {
        while matches!(self.bytes.get(self.at), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
        self.bytes.get(self.at).copied()
    }

    fn stop<T>(&self, wanted: &str) -> Result<T, Wrong> {
        wrong(format!("at byte {}: not {wanted}", self.at))
    }

    fn takes(&mut self, byte: u8) -> bool {
        let found = self.next() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn value(&mut self) -> Result<Value, Wrong> {
        self.depth += 1;
        if self.depth > MOST_DEPTH {
            return wrong("nested too deeply");
        }
        let value = match self.next() {
            Some(b'{') => Value::Object(self.members(b'}', Self::member)?),
            Some(b'[') => Value::List(self.members(b']', Self::value)?),
            Some(b'"') => Value::Text(self.string()?),
            Some(b'-' | b'0'..=b'9') => Value::Number(self.integer()?),
            _ if self.bytes[self.at..].starts_with(b"null") => {
                self.at += 4;
                Value::Null
            }
            _ => return self.stop("a value"),
        };
        self.depth -= 1;
        Ok(value)
    }

    /// What stands between a bracket and the one that closes it, `read` one by one.
    fn members<T>(
        &mut self,
        close: u8,
        read: fn(&mut Self) -> Result<T, Wrong>,
    ) -> Result<Vec<T>, Wrong> {
        let mut members = Vec::new();
        self.at += 1;
        if self.takes(close) {
            return Ok(members);
        }
        loop {
            members.push(read(self)?);
            if self.takes(close) {
                return Ok(members);
            }
            if !self.takes(b',') {
                return self.stop("a comma");
            }
        }
    }

    fn member(&mut self) -> Result<(String, Value), Wrong> {
        let key = match self.next() {
            Some(b'"') => self.string()?,
            _ => return self.stop("a key"),
        };
        match self.takes(b':') {
            true => Ok((key, self.value()?)),
            false => self.stop("a colon"),
        }
    }

    fn string(&mut self) -> Result<String, Wrong> {
        let start = self.at + 1;
        let length = self.bytes[start..]
            .iter()
            .position(|byte| matches!(byte, b'"' | b'\\' | 0..=31));
        match length {
            Some(length) if self.bytes[start + length] == b'"' => {
                self.at = start + length + 1;
                Ok(String::from_utf8_lossy(&self.bytes[start..start + length]).into_owned())
            }
            _ => self.stop("a string without escapes"),
        }
    }

    fn integer(&mut self) -> Result<i64, Wrong> {
        let rest = &self.bytes[self.at..];
        let length = rest
            .iter()
            .position(|byte| !matches!(byte, b'-' | b'0'..=b'9'));
        let digits = String::from_utf8_lossy(&rest[..length.unwrap_or(rest.len())]).into_owned();
        self.at += digits.len();
        digits.parse().or_else(|_| self.stop("a whole number"))
    }
}
