//! Which form of an answer a client wants: by the parameter `format`, else by `Accept`.

use barrow_wire::Codec;

/// The codecs whose blocks stand for themselves, beside those of linked data.
pub(super) const CBOR: Codec = Codec::Other(0x51);
pub(super) const JSON: Codec = Codec::Other(0x0200);

/// A form of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// The block.
    Raw,
    /// The blocks, as a CAR.
    Car,
    /// The block, if it has this codec.
    Codec(Codec),
    /// A page for people.
    Html,
}

const MEDIA_TYPES: &[(&str, Format)] = &[
    ("application/vnd.ipld.raw", Format::Raw),
    ("application/vnd.ipld.car", Format::Car),
    ("application/vnd.ipld.dag-json", Format::Codec(Codec::DagJson)),
    ("application/vnd.ipld.dag-cbor", Format::Codec(Codec::DagCbor)),
    ("application/json", Format::Codec(JSON)),
    ("application/cbor", Format::Codec(CBOR)),
    ("text/html", Format::Html),
];

impl Format {
    /// The form that `format=` names.
    pub(super) fn of_name(name: &str) -> Option<Self> {
        match name {
            "raw" => Some(Self::Raw),
            "car" => Some(Self::Car),
            "dag-json" => Some(Self::Codec(Codec::DagJson)),
            "dag-cbor" => Some(Self::Codec(Codec::DagCbor)),
            "json" => Some(Self::Codec(JSON)),
            "cbor" => Some(Self::Codec(CBOR)),
            _ => None,
        }
    }
}

/// One media range of `Accept`: type, parameters and weight.
struct Range<'a> {
    media_type: &'a str,
    params: Vec<(&'a str, &'a str)>,
    /// In thousandths.
    weight: u32,
}

fn ranges(accept: &str) -> impl Iterator<Item = Range<'_>> {
    accept.split(',').map(|range| {
        let mut parts = range.split(';').map(str::trim);
        let media_type = parts.next().unwrap_or_default();
        let params: Vec<(&str, &str)> = parts.filter_map(|part| part.split_once('=')).collect();
        let weight = params.iter().find(|(name, _)| name.eq_ignore_ascii_case("q"));
        let weight = weight.map_or(Some(1.0), |(_, q)| q.trim().parse::<f32>().ok());
        let weight = (weight.unwrap_or(0.0).clamp(0.0, 1.0) * 1_000.0) as u32;
        Range { media_type, params, weight }
    })
}

/// The form that `Accept` prefers, or none where any will do.
///
/// Among equals a named form goes before `*/*`, and an earlier one before a later.
pub(super) fn preferred(accept: &str) -> Option<Format> {
    let mut best: Option<(u32, Option<Format>)> = None;
    for range in ranges(accept).filter(|range| range.weight > 0) {
        let named =
            MEDIA_TYPES.iter().find(|(name, _)| range.media_type.eq_ignore_ascii_case(name));
        let format = match (named, range.media_type) {
            (Some((_, format)), _) => Some(*format),
            (None, "*/*") => None,
            // A type that is no form of ours, as browsers have many.
            (None, _) => continue,
        };
        let better = best.is_none_or(|(weight, chosen)| {
            range.weight > weight || (range.weight == weight && chosen.is_none())
        });
        if better {
            best = Some((range.weight, format));
        }
    }
    best.and_then(|(_, format)| format)
}

/// A parameter that `Accept` has with the media type of CARs.
pub(super) fn car_param<'a>(accept: &'a str, wanted: &str) -> Option<&'a str> {
    ranges(accept)
        .filter(|range| range.media_type.eq_ignore_ascii_case("application/vnd.ipld.car"))
        .flat_map(|range| range.params)
        .find(|(name, _)| name.eq_ignore_ascii_case(wanted))
        .map(|(_, value)| value.trim_matches('"'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_heaviest_form_wins_then_the_named_then_the_earlier() {
        let raw = "application/vnd.ipld.raw";
        let car = "application/vnd.ipld.car; version=1; order=dfs; dups=y";
        for (accept, format) in [
            (String::new(), None),
            ("*/*".into(), None),
            (raw.into(), Some(Format::Raw)),
            (format!("{raw};q=0.5, {car}"), Some(Format::Car)),
            (format!("{raw}, {car};q=0.8, */*;q=0.1"), Some(Format::Raw)),
            (format!("*/*, {car}"), Some(Format::Car)),
            (format!("{raw};q=0, */*"), None),
            (format!("text/html, {raw};q=0.9"), Some(Format::Html)),
            ("text/html,application/xhtml+xml,*/*;q=0.8".into(), Some(Format::Html)),
            ("image/avif,image/webp,*/*;q=0.8".into(), None),
            (format!("{raw};q=abc"), None),
        ] {
            assert_eq!(preferred(&accept), format, "{accept}");
        }
        assert_eq!(car_param(car, "dups"), Some("y"));
        assert_eq!(car_param(raw, "dups"), None);
    }
}
