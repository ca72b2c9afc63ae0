"""What is made of faces: drawings, copies of photos and videos, records and tables, whole jobs.

drawing     boxes, points and tracks over an image
copies      photos and videos with the faces drawn in
records     one image's faces as a line of JSON or as rows of a table
sinks       files of records that can be continued
sheets      a picture of many small pictures
job         from sources to files: reading, networks and writing overlap
"""
