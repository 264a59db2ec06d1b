"""The only room that speaks S3 or touches the image folder."""
