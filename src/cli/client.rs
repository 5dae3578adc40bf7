//! The way to a node that serves the data directory: its API over HTTP.

use crate::net::http_client::{Content, Request, Response, Url};
use serde_json::Value;
use std::{
    fs,
    io::{self, BufRead as _, BufReader, Read},
    path::Path,
    time::Duration,
};

/// The bytes of a file: how many come, if that is known, and a reader.
pub type Bytes = (Option<u64>, Box<dyn Read>);

/// A node that says nothing for so long does not answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// A serving node, as its `node.json` tells of it.
pub struct Client {
    base: String,
    token: String,
}

/// What a node answered instead of what was asked for.
#[derive(Debug)]
pub struct ApiError {
    /// For scripts.
    pub code: String,
    /// For people.
    pub message: String,
}

impl ApiError {
    fn new(code: &str, message: impl Into<String>) -> Self {
        Self { code: code.into(), message: message.into() }
    }
}

impl From<io::Error> for ApiError {
    fn from(error: io::Error) -> Self {
        Self::new("io", error.to_string())
    }
}

impl Client {
    /// The node that serves `data_dir`, if there is one.
    pub fn of(data_dir: &Path) -> Option<Self> {
        let text = fs::read_to_string(data_dir.join("node.json")).ok()?;
        let node: Value = serde_json::from_str(&text).ok()?;
        let base = format!("http://{}", node["http"].as_str()?);
        let token = fs::read_to_string(data_dir.join("api-token")).unwrap_or_default();
        let client = Self { base, token: token.trim().into() };
        // A node that was killed leaves its file behind.
        client.answers().then_some(client)
    }

    /// Whether a node is there that can be talked to: one that hangs is none.
    fn answers(&self) -> bool {
        let Some(url) = Url::parse(&format!("{}/healthz", self.base)) else { return false };
        Request::new("GET", &url).within(ANSWER_TIMEOUT).send(Content::None).is_ok()
    }

    fn ask(&self, method: &str, path: &str, content: Content<'_>) -> Result<Response, ApiError> {
        let url = format!("{}{path}", self.base);
        let url =
            Url::parse(&url).ok_or_else(|| ApiError::new("usage", format!("no URL: {url}")))?;
        let request = Request::new(method, &url)
            .header("Authorization", format_args!("Bearer {}", self.token));
        request.send(content).map_err(|error| {
            ApiError::new("unreachable", format!("the node does not answer: {error}"))
        })
    }

    /// GETs JSON.
    ///
    /// # Errors
    /// What the node says.
    pub fn get_json(&self, path: &str) -> Result<Value, ApiError> {
        json(self.ask("GET", path, Content::None)?)
    }

    /// GETs content.
    ///
    /// # Errors
    /// What the node says.
    pub fn get_content(&self, path: &str) -> Result<Bytes, ApiError> {
        let response = self.ask("GET", path, Content::None)?;
        if response.status != 200 {
            return Err(api_error(response));
        }
        Ok((response.length, Box::new(response)))
    }

    /// POSTs a body and reads JSON.
    ///
    /// # Errors
    /// What the node says.
    pub fn post(&self, path: &str, body: &mut dyn Read) -> Result<Value, ApiError> {
        json(self.ask("POST", path, Content::Stream(body))?)
    }

    /// DELETEs, and reads JSON.
    ///
    /// # Errors
    /// What the node says.
    pub fn delete(&self, path: &str) -> Result<Value, ApiError> {
        json(self.ask("DELETE", path, Content::None)?)
    }

    /// Starts a job, and tells `each` of its lines; gives the last.
    ///
    /// # Errors
    /// What the node says.
    pub fn job(&self, path: &str, each: &mut dyn FnMut(&Value)) -> Result<Value, ApiError> {
        let response = self.ask("POST", path, Content::None)?;
        if response.status != 200 {
            return Err(api_error(response));
        }
        let mut last = Value::Null;
        for line in BufReader::new(response).lines() {
            last = serde_json::from_str(&line?).map_err(io::Error::from)?;
            each(&last);
        }
        match last.get("error") {
            Some(error) => Err(from_value(error)),
            None if last["done"] == true => Ok(last),
            None => Err(ApiError::new("cut", "the node ended before the job was done")),
        }
    }
}

fn json(mut response: Response) -> Result<Value, ApiError> {
    if !response.is_success() {
        return Err(api_error(response));
    }
    let mut text = String::new();
    response.read_to_string(&mut text)?;
    Ok(serde_json::from_str(&text).map_err(io::Error::from)?)
}

fn api_error(response: Response) -> ApiError {
    let status = response.status;
    let mut text = String::new();
    let _ = response.take(64 << 10).read_to_string(&mut text);
    match serde_json::from_str::<Value>(&text).ok().and_then(|value| value.get("error").cloned()) {
        Some(error) => from_value(&error),
        None => ApiError::new("http", format!("the node answers {status}")),
    }
}

fn from_value(error: &Value) -> ApiError {
    let text = |key: &str| error[key].as_str().unwrap_or_default().to_owned();
    ApiError { code: text("code"), message: text("message") }
}
