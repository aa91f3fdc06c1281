//! Where a stream measures, as exactly as its seller chooses to say.
//!
//! A [`Place`] is a geohash cell and the centre of that cell; the true position is nowhere in it. A coarse cell hides a house,
//! a fine one points at a lamp post. Cells are hierarchical: a prefix of a geohash names a larger cell around it, which is what
//! discovery by place is built on.

use geohash::Coord;
use serde::{Deserialize, Serialize};

/// Finest cell: 12 characters, about 4 cm.
pub const MAX_PRECISION: usize = 12;

/// Mean radius of the Earth in kilometres (IUGG), for distances on the sphere; the error against the ellipsoid is below 0.6 %.
const EARTH_RADIUS_KM: f64 = 6371.0088;

/// Why a position or cell is refused.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PlaceError {
    /// Latitude or longitude out of range or not a number.
    #[error("position {lat}, {lon} is not on Earth: latitude is -90 to 90, longitude -180 to 180")]
    Position {
        /// Degrees north.
        lat: f64,
        /// Degrees east.
        lon: f64,
    },
    /// Precision out of range.
    #[error(
        "a cell of {0} characters does not exist: choose 1 (about 5,000 km) to {MAX_PRECISION} (about 4 cm)"
    )]
    Precision(usize),
    /// The text is not a geohash.
    #[error("`{0}` is not a geohash: 1 to {MAX_PRECISION} of 0-9 b-h j k m n p-z")]
    Cell(String),
    /// The text is not `LAT,LON[,PRECISION]`.
    #[error("`{0}` is not a place: write LAT,LON or LAT,LON,PRECISION, for example 52.52,13.40,5")]
    Text(String),
}

/// A cell on the map.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Geohash of the cell, 1 to 12 characters.
    pub geohash: String,
    /// Latitude of the cell's centre in units of 10⁻⁷ degrees north.
    pub lat_e7: i32,
    /// Longitude of the cell's centre in units of 10⁻⁷ degrees east.
    pub lon_e7: i32,
}

#[expect(clippy::cast_possible_truncation, reason = "degrees are within ±180, so ±1.8e9 fits an i32")]
fn e7(degrees: f64) -> i32 {
    (degrees * 1e7).round() as i32
}

impl Place {
    /// The cell of `precision` characters around a position in degrees.
    ///
    /// # Errors
    /// [`PlaceError`] for positions that do not exist and precisions out of 1..=12.
    pub fn at(lat: f64, lon: f64, precision: usize) -> Result<Self, PlaceError> {
        if !(1..=MAX_PRECISION).contains(&precision) {
            return Err(PlaceError::Precision(precision));
        }
        if !((-90.0..=90.0).contains(&lat) && (-180.0..=180.0).contains(&lon)) {
            return Err(PlaceError::Position { lat, lon });
        }
        let geohash = geohash::encode(Coord { x: lon, y: lat }, precision)
            .map_err(|_| PlaceError::Position { lat, lon })?;
        Self::of_cell(&geohash)
    }

    /// The place that a geohash names.
    ///
    /// # Errors
    /// [`PlaceError::Cell`] when it is not one.
    pub fn of_cell(geohash: &str) -> Result<Self, PlaceError> {
        let wrong = || PlaceError::Cell(geohash.chars().take(MAX_PRECISION + 1).collect());
        let valid = (1..=MAX_PRECISION).contains(&geohash.len())
            && geohash
                .bytes()
                .all(|c| matches!(c, b'0'..=b'9' | b'b'..=b'h' | b'j' | b'k' | b'm' | b'n' | b'p'..=b'z'));
        if !valid {
            return Err(wrong());
        }
        let (centre, _, _) = geohash::decode(geohash).map_err(|_| wrong())?;
        Ok(Self { geohash: geohash.to_owned(), lat_e7: e7(centre.y), lon_e7: e7(centre.x) })
    }

    /// A place received from somebody else is what its geohash says it is.
    ///
    /// # Errors
    /// [`PlaceError`] when the cell does not exist or the centre is not its centre.
    pub fn validate(&self) -> Result<(), PlaceError> {
        if Self::of_cell(&self.geohash)? == *self {
            Ok(())
        } else {
            Err(PlaceError::Position { lat: self.lat(), lon: self.lon() })
        }
    }

    /// Latitude of the centre in degrees.
    #[must_use]
    pub fn lat(&self) -> f64 {
        f64::from(self.lat_e7) / 1e7
    }

    /// Longitude of the centre in degrees.
    #[must_use]
    pub fn lon(&self) -> f64 {
        f64::from(self.lon_e7) / 1e7
    }

    /// Great-circle distance between the centres of two cells, in kilometres.
    #[must_use]
    pub fn distance_km(&self, other: &Self) -> f64 {
        let (lat1, lat2) = (self.lat().to_radians(), other.lat().to_radians());
        let (dlat, dlon) = (lat2 - lat1, (other.lon() - self.lon()).to_radians());
        let h = (dlat / 2.0).sin().powi(2) + lat1.cos() * lat2.cos() * (dlon / 2.0).sin().powi(2);
        2.0 * EARTH_RADIUS_KM * h.sqrt().min(1.0).asin()
    }

    /// Whether this cell lies in the cell `geohash` (or is it).
    #[must_use]
    pub fn is_in(&self, geohash: &str) -> bool {
        self.geohash.starts_with(geohash)
    }
}

impl std::str::FromStr for Place {
    type Err = PlaceError;

    /// `LAT,LON`, `LAT,LON,PRECISION` (precision 5, about 5 km, when not given) or a geohash.
    fn from_str(text: &str) -> Result<Self, PlaceError> {
        const DEFAULT_PRECISION: usize = 5;
        let wrong = || PlaceError::Text(text.chars().take(60).collect());
        let parts: Vec<&str> = text.split(',').map(str::trim).collect();
        match parts.as_slice() {
            [cell] => Self::of_cell(cell),
            [lat, lon] | [lat, lon, _] => {
                let (lat, lon) = (lat.parse().map_err(|_| wrong())?, lon.parse().map_err(|_| wrong())?);
                let precision = match parts.get(2) {
                    Some(precision) => precision.parse().map_err(|_| wrong())?,
                    None => DEFAULT_PRECISION,
                };
                Self::at(lat, lon, precision)
            }
            _ => Err(wrong()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_coarse_cell_does_not_give_the_position_away() {
        let place = Place::at(57.64911, 10.40744, 3).unwrap();
        assert_eq!(place.geohash, "u4p");
        assert!((place.lat() - 57.64911).abs() > 0.1 || (place.lon() - 10.40744).abs() > 0.1);
        place.validate().unwrap();
    }

    #[test]
    fn positions_off_the_map_are_refused() {
        for (lat, lon) in [(90.1, 0.0), (0.0, 180.1), (f64::NAN, 0.0), (0.0, f64::INFINITY)] {
            assert!(matches!(Place::at(lat, lon, 5), Err(PlaceError::Position { .. })), "{lat} {lon}");
        }
        assert!(Place::at(0.0, 0.0, 0).is_err() && Place::at(0.0, 0.0, 13).is_err());
        for cell in ["", "a", "u4pa", "u4pruydqqvj8x", "Ü"] {
            assert!(Place::of_cell(cell).is_err(), "{cell}");
        }
        for text in ["", "1,2,3,4", "x,y", "1,2,z", "91,0"] {
            assert!(text.parse::<Place>().is_err(), "{text}");
        }
    }

    #[test]
    fn poles_and_the_antimeridian_have_cells() {
        for (lat, lon) in [(90.0, 0.0), (-90.0, 180.0), (0.0, -180.0), (90.0, 180.0)] {
            Place::at(lat, lon, 12).unwrap().validate().unwrap();
        }
        let (west, east) = (Place::at(0.0, -179.99, 6).unwrap(), Place::at(0.0, 179.99, 6).unwrap());
        assert!(west.distance_km(&east) < 5.0);
    }

    proptest! {
        #[test]
        fn a_cell_is_in_all_its_prefixes(lat in -90.0..=90.0_f64, lon in -180.0..=180.0_f64, precision in 1..=12_usize) {
            let place = Place::at(lat, lon, precision).unwrap();
            place.validate().unwrap();
            for len in 1..=precision {
                prop_assert!(place.is_in(&place.geohash[..len]));
            }
        }
    }
}
