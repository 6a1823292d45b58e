"""Relevance, allocation, coding and packets: from a picture and a query to bytes on the channel."""
