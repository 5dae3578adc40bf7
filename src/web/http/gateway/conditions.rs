//! Conditional requests and ranges.
//!
//! Source: RFC 9110, sections 13 and 14.

use crate::web::{
    gate::{Reply, ReplyBody, Request},
    http::error,
};
use std::ops::Range;

/// What is known of the content when a condition is tried.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::web::http) enum Known {
    /// Only its tag, which follows from the CID: it may be missing.
    Tag,
    /// It is here.
    Present,
}

/// Returns the answer where a condition ends the request: 412, or 304 where the client has the
/// content already. `*` stands for any content that exists, and is not tried before that is known.
///
/// `If-Unmodified-Since` and `If-Modified-Since` are ignored, as RFC 9110 demands for content
/// that has no date of modification.
pub(in crate::web::http) fn ended(
    request: &Request<'_>,
    etag: &str,
    cache_control: &str,
    known: Known,
) -> Option<Reply> {
    let any = |tag: &str| tag == "*" && known == Known::Present;
    if let Some(wanted) = request.header("if-match") {
        let waits = wanted.trim() == "*" && known == Known::Tag;
        // Compared strongly: a weak tag never matches.
        let same = |tag: &str| any(tag) || tag == etag && !tag.starts_with("W/");
        if !waits && !tags(wanted).any(same) {
            return Some(error(412, "precondition", "the content does not have such a tag"));
        }
    }
    let bare = |tag: &str| tag.strip_prefix("W/").unwrap_or(tag).to_owned();
    let has = |tag: &str| any(tag) || bare(tag) == bare(etag);
    let held = request.header("if-none-match")?;
    tags(held).any(has).then(|| unchanged(etag, cache_control))
}

/// The tags of a list. One may contain a comma, but none of ours does.
fn tags(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(str::trim)
}

fn unchanged(etag: &str, cache_control: &str) -> Reply {
    Reply { status: 304, headers: Vec::new(), body: ReplyBody::Absent(None) }
        .with("etag", etag)
        .with("cache-control", cache_control)
        // A cache picks the stored answer to freshen by the same headers as at first.
        .with("vary", "Accept")
}

/// Returns the first range asked for that can be satisfied, if `If-Range` names what is here or
/// is missing; `None` for all of the content.
///
/// # Errors
/// The answer 416 if none of the ranges can be satisfied.
pub(in crate::web::http) fn wanted_range(
    request: &Request<'_>,
    etag: &str,
    size: u64,
) -> Result<Option<Range<u64>>, Reply> {
    let Some((unit, list)) = request.header("range").and_then(|range| range.split_once('=')) else {
        return Ok(None);
    };
    if !unit.trim().eq_ignore_ascii_case("bytes")
        || request.header("if-range").is_some_and(|known| known != etag)
    {
        return Ok(None);
    }
    // Clients that bound every answer by a range would otherwise never get an empty file.
    if size == 0 {
        return Ok(None);
    }
    let ranges: Option<Vec<Range<u64>>> = list
        .split(',')
        .map(str::trim)
        .filter(|one| !one.is_empty())
        .map(|one| range(one, size))
        .collect();
    // What is no list of ranges is ignored.
    let Some(ranges) = ranges.filter(|ranges| !ranges.is_empty()) else { return Ok(None) };
    match ranges.into_iter().find(|range| range.start < size && !range.is_empty()) {
        Some(range) => Ok(Some(range)),
        None => Err(error(416, "range", "the content has no such bytes")
            .with("content-range", format!("bytes */{size}"))),
    }
}

/// Reads `FROM-TO`, `FROM-` or `-LAST`; `None` if it is malformed.
fn range(text: &str, size: u64) -> Option<Range<u64>> {
    let (from, to) = text.split_once('-')?;
    let number = |digits: &str| {
        let sound = !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit());
        // A number over 64 bits lies behind the end of any content.
        sound.then(|| digits.parse::<u64>().unwrap_or(u64::MAX))
    };
    match (number(from), number(to)) {
        (Some(from), None) if to.is_empty() => Some(from..size.max(from)),
        (Some(from), Some(to)) if from <= to => {
            Some(from..to.saturating_add(1).min(size).max(from))
        }
        (None, Some(last)) if from.is_empty() => Some(size.saturating_sub(last)..size),
        _ => None,
    }
}
