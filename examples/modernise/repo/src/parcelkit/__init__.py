"""parcelkit: units, money, addresses, tariffs, calendars, tracking and reports for parcels."""

__version__ = "1.8.2"

__all__ = ["address", "money", "shipment", "units"]
